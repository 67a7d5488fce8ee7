/* Preloaded into redis-server: notes how much of appendonly.aof is on the disk.
 *
 * After each fsync or fdatasync that succeeds, the file's inode and its length as of before the call (two 64-bit
 * numbers) are written to the file named by CONTINUAL_SYNCED. Whatever was appended later may be gone after a loss
 * of power.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char NAME[] = "/appendonly.aof";
static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
static uint64_t noted[2]; /* inode, length */
static int out = -1;

static int is_log(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    size_t name = sizeof NAME - 1;
    return length >= (ssize_t)name && memcmp(path + length - name, NAME, name) == 0;
}

static void note(uint64_t inode, uint64_t length) {
    pthread_mutex_lock(&one);
    if (out < 0) {
        const char *path = getenv("CONTINUAL_SYNCED");
        out = path ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
    }
    if (noted[0] != inode || noted[1] < length) {
        noted[0] = inode;
        noted[1] = length;
        if (pwrite(out, noted, sizeof noted, 0) != sizeof noted) abort();
    }
    pthread_mutex_unlock(&one);
}

static int synced(int fd, const char *name) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    struct stat before;
    int watched = is_log(fd) && fstat(fd, &before) == 0;
    int result = real(fd);
    if (result == 0 && watched) note(before.st_ino, (uint64_t)before.st_size);
    return result;
}

int fsync(int fd) { return synced(fd, "fsync"); }

int fdatasync(int fd) { return synced(fd, "fdatasync"); }
