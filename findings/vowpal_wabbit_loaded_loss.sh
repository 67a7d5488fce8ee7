#!/usr/bin/env bash
# vowpalwabbit 9.11.9: a model that was trained with `--loss_function logistic` and saved says the same predictions when
# it is loaded with `-i`, and then learns on with another loss, since the loss function is not in the file. Expected: the loss function of the saved model, as other options of it are kept, or a refusal. Way
# out: state `--loss_function` again beside `-i`. Seen after 200 more events: 3.146 of the saved model, 1.010 of the
# loaded one, 3.146 of one that is told its loss again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet vowpalwabbit==9.11.9
FOLDER=$folder "$folder/venv/bin/python" - <<'PY'
import os

import vowpalwabbit
from vowpalwabbit import pyvw

SAVED = os.environ["FOLDER"] + "/model.vw"
EVENT = "| a:1"


def learn(model):
    for number in range(200):
        model.learn(f"{1 if number % 2 else -1} | a:{number % 2}")
    return model.predict(EVENT)


first = pyvw.Workspace("--loss_function logistic --quiet --no_stdin")
said = learn(first)
first.save(SAVED)
plain = pyvw.Workspace(f"-i {SAVED} --quiet --no_stdin")
stated = pyvw.Workspace(f"-i {SAVED} --loss_function logistic --quiet --no_stdin")
assert plain.predict(EVENT) == stated.predict(EVENT) == said
on = first_on, plain_on, stated_on = learn(first), learn(plain), learn(stated)
print(f"vowpalwabbit {vowpalwabbit.__version__}, 200 more events: the saved model {on[0]:.3f}, "
      f"loaded with -i {on[1]:.3f}, with the loss function stated too {on[2]:.3f}")
assert stated_on == first_on
assert abs(plain_on - first_on) > 1.0
PY
