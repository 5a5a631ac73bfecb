/* What GStreamer asks of a webcam beyond what webcam.c answers; preloaded in front of it: whether
 * the path is a device, whether its memory can be shared with others, and when a picture is there,
 * which it asks with ppoll instead of select.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DEVICE "/dev/video7"
#define LOOK_AGAIN_NS 2000000L
#define NEXT(name, ...) ((__VA_ARGS__)dlsym(RTLD_NEXT, name))

static int first = -1; /* descriptor that was opened; GStreamer asks through copies of it too */

static int plugged(void) {
    int fd = open(DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC); /* webcam.c's */
    if (fd >= 0) close(fd);
    return fd >= 0;
}

static int is_webcam(int fd) {
    char path[32] = "/proc/self/fd/", name[64] = "";
    int at = strlen(path), digits = 1;
    for (int rest = fd; rest >= 10; rest /= 10) digits++;
    for (int i = digits; i; i--, fd /= 10) path[at + i - 1] = '0' + fd % 10;
    path[at + digits] = 0;
    return readlink(path, name, sizeof name - 1) > 0 && strstr(name, "memfd:webcam");
}

int stat(const char *path, struct stat *to) {
    if (strcmp(path, DEVICE)) return NEXT("stat", int (*)(const char *, struct stat *))(path, to);
    if (!plugged()) return -1;
    memset(to, 0, sizeof *to);
    to->st_mode = S_IFCHR | 0660;
    return 0;
}

int stat64(const char *path, struct stat64 *to) {
    if (strcmp(path, DEVICE))
        return NEXT("stat64", int (*)(const char *, struct stat64 *))(path, to);
    if (!plugged()) return -1;
    memset(to, 0, sizeof *to);
    to->st_mode = S_IFCHR | 0660;
    return 0;
}

int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (is_webcam(fd)) {
        if ((uint32_t)request == (uint32_t)VIDIOC_QUERYCAP) first = fd;
        if ((uint32_t)request == (uint32_t)VIDIOC_EXPBUF) {
            errno = ENOTTY; /* the driver knows no such request */
            return -1;
        }
        fd = first;
    }
    return NEXT("ioctl", int (*)(int, unsigned long, ...))(fd, request, argument);
}

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask) {
    int (*real)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *) =
        dlsym(RTLD_NEXT, "ppoll");
    nfds_t at = 0;
    while (at < count && !(fds[at].fd >= 0 && is_webcam(fds[at].fd))) at++;
    if (at == count) return real(fds, count, timeout, mask);
    int fd = fds[at].fd;
    long long left = timeout ? timeout->tv_sec * 1000000000LL + timeout->tv_nsec : 1LL << 62;
    for (;; left -= LOOK_AGAIN_NS) {
        fd_set in;
        struct timeval none = {0, 0};
        struct timespec wait = {0, LOOK_AGAIN_NS};
        FD_ZERO(&in);
        FD_SET(first, &in);
        int due = select(first + 1, &in, NULL, NULL, &none); /* webcam.c's */
        if (due) wait.tv_nsec = 0;
        fds[at].fd = -1; /* memory can always be read */
        int others = real(fds, count, &wait, mask);
        fds[at].fd = fd, fds[at].revents = due ? POLLIN : 0;
        if (others || due || left <= 0) return others + due;
    }
}
