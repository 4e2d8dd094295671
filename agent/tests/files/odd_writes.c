/* Writes to an existing file in ways that no write(2) shows.
 *   odd_writes mmap PATH   maps the file, writes through the map, and keeps the file open between two writes: after
 *                          each it prints a line and waits for a line on its input
 *   odd_writes uring PATH  writes by io_uring; exits 77 where the kernel has none
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int by_map(const char *path)
{
	int fd = open(path, O_RDWR);
	char *map = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return 1;
	for (int turn = 0; turn < 2; turn++) {
		memcpy(map, turn ? "second" : "first!", 6);
		puts("written");
		fflush(stdout);
		if (getchar() == EOF)
			return 1;
	}
	return munmap(map, 4096) || close(fd);
}

static int by_ring(const char *path)
{
	struct io_uring_params params = {0};
	int ring = syscall(SYS_io_uring_setup, 4, &params), fd = open(path, O_WRONLY);
	if (ring < 0)
		return 77;
	if (fd < 0)
		return 1;
	char *queue = mmap(NULL, params.sq_off.array + params.sq_entries * sizeof(unsigned), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	struct io_uring_sqe *entries = mmap(NULL, params.sq_entries * sizeof(*entries), PROT_READ | PROT_WRITE,
					    MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
	if (queue == MAP_FAILED || entries == MAP_FAILED)
		return 1;
	memset(entries, 0, sizeof(*entries));
	entries[0].opcode = IORING_OP_WRITE;
	entries[0].fd = fd;
	entries[0].addr = (unsigned long)"by the ring";
	entries[0].len = 11;
	((unsigned *)(queue + params.sq_off.array))[0] = 0;
	__atomic_store_n((unsigned *)(queue + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		return 1;
	return close(fd);
}

int main(int count, char **words)
{
	if (count != 3)
		return 2;
	return strcmp(words[1], "mmap") ? by_ring(words[2]) : by_map(words[2]);
}
