/* storm DIRECTORY FILES [RATE]: creates, writes and removes FILES files one after the other, as fast as it can; with a
 * RATE so many a second, which stay, in 100 directories. Prints seconds and CPU seconds; with a RATE one line a file:
 * its name and when it was closed (CLOCK_MONOTONIC). */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void make(const char *path) {
    static const char text[] = "sixteen bytes...";
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (file < 0) fail(path);
    if (write(file, text, 16) != 16) fail("write");
    close(file);
}

int main(int count, char **words) {
    char path[4096];
    if (count < 3) return 2;
    long files = atol(words[2]);
    double rate = count > 3 ? atof(words[3]) : 0;
    for (int n = 0; rate > 0 && n < 100; n++) {
        snprintf(path, sizeof path, "%s/%d", words[1], n);
        mkdir(path, 0755);
    }
    double begin = now();
    for (long n = 0; n < files; n++) {
        if (rate == 0) {
            snprintf(path, sizeof path, "%s/storm-%ld", words[1], n);
            make(path);
            if (unlink(path)) fail(path);
            continue;
        }
        double wait = begin + n / rate - now();
        if (wait > 0) usleep(wait * 1e6);
        snprintf(path, sizeof path, "%s/%ld/change-%ld", words[1], n % 100, n);
        make(path);
        printf("change-%ld %.6f\n", n, now());
    }
    if (rate == 0) {
        struct rusage used;
        getrusage(RUSAGE_SELF, &used);
        printf("%.4f %.4f\n", now() - begin,
               used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    }
    return 0;
}
