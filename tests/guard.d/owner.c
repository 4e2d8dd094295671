// owner PID: has the kernel send SIGKILL to PID, as to the owner of a socket to which something has come (fcntl(2): F_SETSIG).
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **words) {
  int ends[2];
  if (count != 2 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || fcntl(ends[0], F_SETOWN, atoi(words[1])) ||
      fcntl(ends[0], F_SETSIG, SIGKILL) || fcntl(ends[0], F_SETFL, O_ASYNC))
    return 1;
  return write(ends[1], "x", 1) != 1;
}
