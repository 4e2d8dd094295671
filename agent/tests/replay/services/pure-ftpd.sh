exec pure-ftpd -S 127.0.0.1,PORT -l pam -u 1000 -E -H
