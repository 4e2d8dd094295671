// marks FILE: tries what changes a file without opening it for writing (extended attributes, access lists, what chattr(1) asks for). Fine
// when all of it is refused by EPERM; else it says what the kernel answered.
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

static int failed;

static void look(const char *what, int answer) {
  if (answer == -1 && errno == EPERM)
    return;
  failed = 1;
  printf("%s: %s\n", what, answer == -1 ? strerror(errno) : "done");
}

int main(int count, char **words) {
  int file = count == 2 ? open(words[1], O_RDONLY) : -1;
  unsigned char list[4] = {2};
  long flags = FS_IMMUTABLE_FL;
  struct fsxattr marks = {.fsx_xflags = FS_XFLAG_IMMUTABLE};
  if (file == -1)
    return 2;
  look("setxattr", setxattr(words[1], "trusted.tried", "x", 1, 0));
  look("removexattr", removexattr(words[1], "trusted.tried"));
  look("access list", setxattr(words[1], "system.posix_acl_access", list, sizeof list, 0));
  look("FS_IOC_SETFLAGS", ioctl(file, FS_IOC_SETFLAGS, &flags));
  look("FS_IOC32_SETFLAGS", ioctl(file, FS_IOC32_SETFLAGS, &flags));
  look("FS_IOC_FSSETXATTR", ioctl(file, FS_IOC_FSSETXATTR, &marks));
  return failed;
}
