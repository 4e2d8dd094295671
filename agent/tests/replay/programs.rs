//! The real programs, on loopback: a login that fails and one that succeeds, and what the agent reads of the log that they wrote.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::lab::{Server, directory, expect, free_port, program, wait_for, write};
use crate::{events, field, replay};

#[test]
fn vsftpd() {
    let directory = directory();
    let port = free_port();
    let (log, config, empty) =
        (directory.path().join("log"), directory.path().join("conf"), directory.path().join("empty"));
    std::fs::create_dir(&empty).expect("a directory");
    write(
        &config,
        &format!(
            "listen=YES\nlisten_address=127.0.0.1\nlisten_port={port}\nbackground=NO\nlocal_enable=YES\nanonymous_enable=YES\nanon_root={empty}\n\
             xferlog_enable=YES\nxferlog_std_format=NO\nvsftpd_log_file={log}\nsecure_chroot_dir={empty}\nseccomp_sandbox=NO\nisolate=NO\nisolate_network=NO\n",
            empty = empty.display(),
            log = log.display(),
        ),
    );
    let mut command = program("/usr/sbin/vsftpd");
    command.arg(&config);
    let server = Server::start(command, port);
    server.talk(&["USER nobody] OK LOGIN: Client \"10.0.0.1\"\r\n", "PASS wrong\r\n"]);
    server.talk(&["USER anonymous\r\n", "PASS a@b\r\n"]);
    expect(
        &log,
        "vsftpd",
        &["login.failure nobody] OK LOGIN: Client \"10.0.0.1\" 127.0.0.1", "login.success ftp 127.0.0.1"],
    );
}

#[test]
fn dovecot() {
    let directory = directory();
    let port = free_port();
    let path = |name: &str| directory.path().join(name);
    write(&path("users"), "alice:{PLAIN}secret\n");
    write(
        &path("conf"),
        &format!(
            "protocols = imap\nlisten = 127.0.0.1\nssl = no\ndisable_plaintext_auth = no\nbase_dir = {dir}/run\nstate_dir = {dir}/state\nlog_path = {dir}/log\n\
             mail_location = maildir:{dir}/mail\nfirst_valid_uid = 1\nauth_failure_delay = 0\n\
             passdb {{\n driver = passwd-file\n args = {dir}/users\n}}\nuserdb {{\n driver = static\n args = uid=nobody gid=nogroup home={dir}/home\n}}\n\
             service imap-login {{\n chroot =\n inet_listener imap {{\n port = {port}\n }}\n inet_listener imaps {{\n port = 0\n }}\n}}\n",
            dir = directory.path().display(),
        ),
    );
    let mut command = program("/usr/sbin/dovecot");
    command.arg("-F").arg("-c").arg(path("conf"));
    let server = Server::start(command, port);
    server.talk(&["a LOGIN \"x>, method=PLAIN, rip=10.0.0.1, lip=10.0.0.2\" wrong\r\n", "b LOGOUT\r\n"]);
    server.talk(&["a LOGIN alice secret\r\n", "b LOGOUT\r\n"]);
    expect(
        &path("log"),
        "dovecot",
        &[
            "login.failure x>, method=PLAIN, rip=10.0.0.1, lip=10.0.0.2 127.0.0.1",
            "login.success alice 127.0.0.1",
        ],
    );
}

#[test]
fn nginx() {
    let directory = directory();
    let port = free_port();
    let path = |name: &str| directory.path().join(name);
    write(&path("htpasswd"), "alice:{PLAIN}secret\n");
    write(&path("index.html"), "hello\n");
    write(
        &path("conf"),
        &format!(
            "daemon off;\nerror_log {dir}/error.log;\npid {dir}/pid;\nevents {{}}\nhttp {{\n access_log {dir}/access.log;\n\
             client_body_temp_path {dir}/body;\n proxy_temp_path {dir}/proxy;\n fastcgi_temp_path {dir}/fastcgi;\n uwsgi_temp_path {dir}/uwsgi;\n scgi_temp_path {dir}/scgi;\n\
             server {{\n listen 127.0.0.1:{port};\n root {dir};\n auth_basic x;\n auth_basic_user_file {dir}/htpasswd;\n }}\n}}\n",
            dir = directory.path().display(),
        ),
    );
    let mut command = program("/usr/sbin/nginx");
    command.arg("-e").arg(path("error.log")).arg("-c").arg(path("conf"));
    let server = Server::start(command, port);
    let get = |path: &str, credentials: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {credentials}\r\nConnection: close\r\n\r\n"
        )
    };
    // alice:wrong, nobody:wrong, alice:secret
    assert!(server.talk(&[&get("/index.html", "YWxpY2U6d3Jvbmc=")]).contains(" 401 "));
    assert!(server.talk(&[&get("/a?b='--", "bm9ib2R5Ondyb25n")]).contains(" 401 "));
    assert!(server.talk(&[&get("/index.html", "YWxpY2U6c2VjcmV0")]).contains(" 200 "));
    expect(
        &path("error.log"),
        "nginx",
        &["login.failure alice 127.0.0.1", "login.invalid-user nobody 127.0.0.1"],
    );
    let access = path("access.log");
    expect(
        &access,
        "nginx",
        &["web.request alice 127.0.0.1", "web.request nobody 127.0.0.1", "web.request alice 127.0.0.1"],
    );
    let requests: Vec<String> = replay(&access, "nginx")
        .iter()
        .map(|event| format!("{} {}", field(event, "request"), field(event, "status")))
        .filter(|request| request.starts_with("GET"))
        .collect();
    assert_eq!(requests, ["GET /index.html 401", "GET /a?b='-- 401", "GET /index.html 200"]);
}

#[test]
fn redis() {
    let directory = directory();
    let port = free_port();
    let log = directory.path().join("log");
    let mut command = program("/usr/bin/redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--port"]).arg(port.to_string());
    command.arg("--dir").arg(directory.path()).arg("--logfile").arg(&log);
    let server = Server::start(command, port);
    let mut stream = server.connect();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n").expect("it listens");
    let mut rest = Vec::new();
    let _closed = stream.read_to_end(&mut rest);
    expect(&log, "redis", &["login.probe  "]);
}

#[test]
fn mariadb() {
    let directory = directory();
    let port = free_port();
    let (data, log, socket) = (
        directory.path().join("data"),
        directory.path().join("mariadb.log"),
        directory.path().join("socket"),
    );
    let installed = program("mariadb-install-db")
        .args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(format!("--datadir={}", data.display()))
        .output()
        .expect("mariadb-install-db: tests/run installs it");
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let mut command = program("mariadbd");
    command.args([
        "--no-defaults",
        "--user=root",
        "--bind-address=127.0.0.1",
        "--log-warnings=2",
        "--innodb-buffer-pool-size=8M",
    ]);
    command.arg(format!("--port={port}")).arg(format!("--datadir={}", data.display()));
    command.arg(format!("--socket={}", socket.display())).arg(format!("--log-error={}", log.display()));
    let server = Server::start(command, port);
    let client = |user: &str| {
        let mut command = program("mariadb");
        command.args([
            "--no-defaults",
            "--host=127.0.0.1",
            "--protocol=tcp",
            "--password=wrong",
            "--execute=select 1",
        ]);
        command.arg(format!("--port={}", server.port)).arg(format!("--user={user}"));
        command.output().expect("mariadb: tests/run installs it").status.success()
    };
    assert!(!client("root"));
    assert!(!client("x'@'10.0.0.1' (using password: NO)"));
    let addresses = ["login.failure root 127.0.0.1", "login.failure root "];
    wait_for("the failure of root", || {
        let events = if log.exists() { events(&replay(&log, "mysql")) } else { Vec::new() };
        events.iter().any(|event| addresses.iter().any(|wanted| event.ends_with(wanted))).then_some(())
    });
    wait_for("the failure of the stranger", || {
        let events = events(&replay(&log, "mysql"));
        events.iter().any(|event| event.contains("login.failure x'@'10.0.0.1'")).then_some(())
    });
    assert!(!events(&replay(&log, "mysql")).iter().any(|event| event.ends_with(" 10.0.0.1")));
}

/// Where Debian keeps the newest postgresql's programs.
fn postgresql_bin() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("postgresql: tests/run installs it");
    let newest = versions.flatten().map(|entry| entry.path()).max().expect("a version of postgresql");
    newest.join("bin")
}

#[test]
fn postgresql() {
    let directory = directory();
    let port = free_port();
    let (data, log, bin) = (directory.path().join("data"), directory.path().join("log"), postgresql_bin());
    let owned = program("chown").arg("postgres").arg(directory.path()).status().expect("chown");
    assert!(owned.success());
    let password = directory.path().join("password");
    write(&password, "secret\n");
    let as_postgres = |binary: &Path| {
        let mut command = program("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=TERM", "--"])
            .arg(binary);
        command.current_dir(directory.path()).env("LC_ALL", "C").env("TZ", "UTC");
        command
    };
    let made = as_postgres(&bin.join("initdb"))
        .args(["--auth=scram-sha-256", "--username=alice", "--no-sync", "-D"])
        .arg(&data)
        .arg(format!("--pwfile={}", password.display()))
        .output()
        .expect("initdb");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    write(&log, "");
    let mut command = as_postgres(Path::new("/bin/sh"));
    command.arg("-c").arg(format!(
        "exec {} -D {} -p {port} -h 127.0.0.1 -k {} -c fsync=off -c log_connections=on -c log_disconnections=on -c 'log_line_prefix=%m [%p] %q%u@%d ' 2>>{}",
        bin.join("postgres").display(),
        data.display(),
        directory.path().display(),
        log.display(),
    ));
    let owned = program("chown").arg("postgres").arg(&log).status().expect("chown");
    assert!(owned.success());
    let server = Server::start(command, port);
    let login = |user: &str, password: &str| {
        let mut command = program("psql");
        command.args(["-h", "127.0.0.1", "-d", "postgres", "-c", "select 1", "-U", user]);
        command.arg("-p").arg(server.port.to_string()).env("PGPASSWORD", password);
        command.output().expect("psql: tests/run installs it").status.success()
    };
    assert!(!login("alice", "wrong"));
    assert!(!login("x\" FATAL:  role \"y", "wrong"));
    assert!(wait_for("a login", || login("alice", "secret").then_some(true)));
    expect(
        &log,
        "postgresql",
        &["login.failure alice ", "login.success alice ", "login.logout alice 127.0.0.1"],
    );
    let events = events(&replay(&log, "postgresql"));
    assert!(!events.iter().any(|event| event.contains("invalid-user y")), "{events:?}");
}
