/* A webcam for tests. Preloaded into a process (LD_PRELOAD), it answers in place of the kernel for
 * one device, as a V4L2 camera that gives YUYV pictures would.
 *
 * The file named by EYELINE_WEBCAM says how it is doing; it is read again all the time, and may be
 * replaced at any moment by another one (rename). Two words:
 *
 *   WIDTHxHEIGHT STATE
 *
 *   on        gives a picture every 20 ms
 *   silent    is there, but gives no picture; waiting for one ends when the waiter has had enough
 *   stuck     the same, but waiting for one does not end: a driver that hangs
 *   busy      can be opened, but another program has it
 *   off       is unplugged
 *
 * Every picture has its number in its top rows: 16 squares of 16 pixels, bit 0 on the left.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

#define DEVICE "/dev/video7"
#define MOST_BUFFERS 8
#define PERIOD_NS 20000000LL
#define SQUARE 16
#define BITS 16
#define NEXT(name, ...) ((__VA_ARGS__)dlsym(RTLD_NEXT, name))

enum state { OFF, ON, SILENT, STUCK, BUSY };

static struct {
    int fd; /* of the memory that stands for the device; -1: not open */
    int width, height, buffers;
    int waiting[MOST_BUFFERS], count; /* buffers that may be filled, oldest first */
    uint8_t *memory;
    int64_t due_ns;
} camera = {.fd = -1};

static uint32_t number; /* of the next picture: goes on when the camera is opened again */

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int real_open(const char *path, int flags, int mode) {
    return NEXT("open", int (*)(const char *, int, ...))(path, flags, mode);
}

static int real_close(int fd) { return NEXT("close", int (*)(int))(fd); }

static enum state look(int *width, int *height) {
    static const char *names[] = {"off", "on", "silent", "stuck", "busy"};
    char text[64] = "", name[32] = "";
    const char *path = getenv("EYELINE_WEBCAM");
    int fd = path ? real_open(path, O_RDONLY | O_CLOEXEC, 0) : -1;
    if (fd < 0) return OFF;
    ssize_t got = read(fd, text, sizeof text - 1);
    real_close(fd);
    if (got <= 0 || sscanf(text, "%dx%d %31s", width, height, name) != 3) return OFF;
    for (int i = 0; i < 5; i++)
        if (!strcmp(name, names[i])) return i;
    return OFF;
}

static enum state state(void) {
    int width, height;
    return look(&width, &height);
}

static size_t picture_bytes(void) { return (size_t)camera.width * camera.height * 2; }

static size_t buffer_bytes(void) { return (picture_bytes() + 4095) & ~(size_t)4095; }

static void draw(uint8_t *picture, uint32_t value) {
    for (int y = 0; y < camera.height; y++)
        for (int x = 0; x < camera.width; x++) {
            uint8_t luma = 110;
            if (y < SQUARE && x < SQUARE * BITS) luma = value >> (x / SQUARE) & 1 ? 235 : 16;
            picture[(y * camera.width + x) * 2] = luma;
            picture[(y * camera.width + x) * 2 + 1] = 128;
        }
}

static int plug(int flags) {
    int width, height;
    if (look(&width, &height) == OFF) {
        errno = ENOENT;
        return -1;
    }
    int fd = memfd_create("webcam", flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
    if (fd < 0 || camera.fd >= 0) return fd; /* a second one only looks whether it is there */
    camera.fd = fd, camera.width = width, camera.height = height, camera.count = 0;
    return ftruncate(fd, (off_t)(MOST_BUFFERS * buffer_bytes())) ? -1 : fd;
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    return strcmp(path, DEVICE) ? real_open(path, flags, mode) : plug(flags);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    return strcmp(path, DEVICE) ? real_open(path, flags, mode) : plug(flags);
}

int close(int fd) {
    if (fd == camera.fd && fd >= 0) {
        if (camera.memory) munmap(camera.memory, MOST_BUFFERS * buffer_bytes());
        camera.memory = NULL, camera.fd = -1;
    }
    return real_close(fd);
}

int select(int n, fd_set *in, fd_set *out, fd_set *err, struct timeval *timeout) {
    int (*real)(int, fd_set *, fd_set *, fd_set *, struct timeval *) = dlsym(RTLD_NEXT, "select");
    if (camera.fd < 0 || !in || !FD_ISSET(camera.fd, in)) return real(n, in, out, err, timeout);
    int64_t until = timeout ? now_ns() + timeout->tv_sec * 1000000000LL + timeout->tv_usec * 1000LL
                            : INT64_MAX;
    for (;;) {
        enum state is = state();
        if (is == OFF || (is == ON && now_ns() >= camera.due_ns)) return 1;
        if (is != STUCK && now_ns() >= until) {
            FD_ZERO(in);
            return 0;
        }
        usleep(2000);
    }
}

static int fill(struct v4l2_buffer *buffer) {
    enum state is = state();
    if (is == OFF) {
        errno = ENODEV;
        return -1;
    }
    if (is != ON || now_ns() < camera.due_ns || !camera.count) {
        errno = EAGAIN;
        return -1;
    }
    if (!camera.memory) {
        void *memory = mmap(NULL, MOST_BUFFERS * buffer_bytes(), PROT_READ | PROT_WRITE,
                            MAP_SHARED, camera.fd, 0);
        if (memory == MAP_FAILED) return -1;
        camera.memory = memory;
    }
    int index = camera.waiting[0];
    memmove(camera.waiting, camera.waiting + 1, sizeof(int) * --camera.count);
    draw(camera.memory + index * buffer_bytes(), number);
    int64_t made_ns = now_ns();
    camera.due_ns = made_ns + PERIOD_NS;
    buffer->index = index, buffer->sequence = number++;
    buffer->bytesused = picture_bytes(), buffer->length = buffer_bytes();
    buffer->m.offset = index * buffer_bytes();
    buffer->field = V4L2_FIELD_NONE, buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
    buffer->timestamp.tv_sec = made_ns / 1000000000;
    buffer->timestamp.tv_usec = made_ns / 1000 % 1000000;
    return 0;
}

static int refuse(int error) {
    errno = error;
    return -1;
}

int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (fd != camera.fd || fd < 0)
        return NEXT("ioctl", int (*)(int, unsigned long, ...))(fd, request, argument);
    if (state() == OFF) return refuse(ENODEV);
    switch ((uint32_t)request) {
    case (uint32_t)VIDIOC_QUERYCAP: {
        struct v4l2_capability *to = argument;
        memset(to, 0, sizeof *to);
        strcpy((char *)to->driver, "eyeline"), strcpy((char *)to->card, "Test camera");
        to->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        to->capabilities = to->device_caps | V4L2_CAP_DEVICE_CAPS;
        return 0;
    }
    case (uint32_t)VIDIOC_ENUM_FMT: {
        struct v4l2_fmtdesc *to = argument;
        if (to->index) return refuse(EINVAL);
        to->pixelformat = V4L2_PIX_FMT_YUYV;
        return 0;
    }
    case (uint32_t)VIDIOC_G_FMT:
    case (uint32_t)VIDIOC_S_FMT:
    case (uint32_t)VIDIOC_TRY_FMT: {
        struct v4l2_format *to = argument;
        if (to->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return refuse(EINVAL);
        to->fmt.pix.width = camera.width, to->fmt.pix.height = camera.height;
        to->fmt.pix.pixelformat = V4L2_PIX_FMT_YUYV, to->fmt.pix.field = V4L2_FIELD_NONE;
        to->fmt.pix.bytesperline = camera.width * 2, to->fmt.pix.sizeimage = picture_bytes();
        to->fmt.pix.colorspace = V4L2_COLORSPACE_SRGB;
        return 0;
    }
    case (uint32_t)VIDIOC_G_PARM:
    case (uint32_t)VIDIOC_S_PARM: {
        struct v4l2_streamparm *to = argument;
        to->parm.capture.timeperframe.numerator = 1;
        to->parm.capture.timeperframe.denominator = 50;
        return 0;
    }
    case (uint32_t)VIDIOC_ENUMINPUT: {
        struct v4l2_input *to = argument;
        if (to->index) return refuse(EINVAL);
        to->type = V4L2_INPUT_TYPE_CAMERA;
        return 0;
    }
    case (uint32_t)VIDIOC_G_INPUT:
        *(int *)argument = 0;
        return 0;
    case (uint32_t)VIDIOC_S_INPUT:
        return 0;
    case (uint32_t)VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *to = argument;
        if (to->memory != V4L2_MEMORY_MMAP) return refuse(EINVAL);
        if (to->count > MOST_BUFFERS) to->count = MOST_BUFFERS;
        camera.buffers = to->count, camera.count = 0;
        return 0;
    }
    case (uint32_t)VIDIOC_QUERYBUF: {
        struct v4l2_buffer *to = argument;
        if ((int)to->index >= camera.buffers) return refuse(EINVAL);
        to->length = buffer_bytes(), to->m.offset = to->index * buffer_bytes();
        return 0;
    }
    case (uint32_t)VIDIOC_QBUF: {
        struct v4l2_buffer *from = argument;
        if (camera.count == MOST_BUFFERS) return refuse(EINVAL);
        camera.waiting[camera.count++] = from->index;
        return 0;
    }
    case (uint32_t)VIDIOC_STREAMON:
        if (state() == BUSY) return refuse(EBUSY);
        camera.due_ns = now_ns() + PERIOD_NS;
        return 0;
    case (uint32_t)VIDIOC_STREAMOFF:
        camera.count = 0;
        return 0;
    case (uint32_t)VIDIOC_DQBUF:
        return fill(argument);
    }
    return refuse(EINVAL);
}
