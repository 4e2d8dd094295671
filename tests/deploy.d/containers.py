"""Runs the containers of deploy/compose and deploy/kubernetes without a container engine: each command as it stands there, by the
real collector, as the manifest's user, without capabilities or new privileges, on a root that holds the program alone and is
read-only, with the volume where the manifest mounts it. Called by tests/deploy, in namespaces of its own.

    containers.py DEPLOY_DIRECTORY COLLECTOR
"""

import ctypes
import json
import os
import pathlib
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

import yaml

PATIENCE = 60
PR_SET_NO_NEW_PRIVS = 38
LIBC = ctypes.CDLL(None, use_errno=True)


def shown(text):
    print(f"  ok  {text}", flush=True)


def fail(text):
    sys.exit(f"  FAILED  {text}")


def expect(truth, text):
    if not truth:
        fail(text)


def wait_for(what, probe):
    deadline = time.monotonic() + PATIENCE
    while not probe():
        if time.monotonic() > deadline:
            fail(f"waited in vain for {what}")
        time.sleep(0.05)


def mount(*words):
    subprocess.run(["mount", *map(str, words)], check=True)


class Host:
    """A read-only root with the program, sh and the libraries of this machine, and one volume at `mounted`."""

    def __init__(self, work, collector, user, mounted):
        self.user = user
        self.root = pathlib.Path(tempfile.mkdtemp(dir=work))
        self.root.chmod(0o755)
        mount("--bind", self.root, self.root)
        for directory in ("usr/bin", "usr/lib", "usr/lib64", "proc", "dev", mounted.lstrip("/")):
            (self.root / directory).mkdir(parents=True)
        for name in ("bin", "lib", "lib64"):
            (self.root / name).symlink_to(f"usr/{name}")
        shutil.copy(collector, self.root / "usr/bin/collector")
        for name in ("sh", "sleep"):
            shutil.copy(f"/bin/{name}", self.root / "usr/bin" / name)
        for name in ("null", "urandom"):
            (self.root / "dev" / name).touch()
            mount("--bind", f"/dev/{name}", self.root / "dev" / name)
        for name in ("usr/lib", "usr/lib64"):
            mount("--bind", f"/{name}", self.root / name)
            mount("-o", "remount,bind,ro", self.root / name)
        mount("--rbind", "/proc", self.root / "proc")
        volume = self.root / mounted.lstrip("/")
        mount("-t", "tmpfs", "-o", f"mode=700,uid={user},gid={user},size=256m", "tmpfs", volume)
        mount("-o", "remount,bind,ro", self.root)

    def confine(self):
        """In the child, before it becomes the container's program."""
        os.chroot(self.root)
        os.chdir("/")
        os.setgroups([])
        os.setresgid(self.user, self.user, self.user)
        os.setresuid(self.user, self.user, self.user)
        if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "no_new_privs")

    def start(self, words, environment=None, **more):
        variables = {"PATH": "/usr/bin:/bin", **(environment or {})}
        return subprocess.Popen(words, env=variables, preexec_fn=self.confine, **more)

    def run(self, words, environment=None, stdin=b"", code=0):
        process = self.start(words, environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(stdin, timeout=PATIENCE)
        expect(process.returncode == code, f"{words} ended with {process.returncode}: {err.decode()}")
        return out


class Service:
    """The collector as the manifest runs it."""

    def __init__(self, host, words, port, grace):
        self.grace = grace
        self.process = host.start(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.port = port
        wait_for("the health of the collector", self.is_healthy)
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        wanted = {"Uid": "\t".join([str(host.user)] * 4), "CapEff": "0" * 16, "NoNewPrivs": "1"}
        for name, value in wanted.items():
            expect(re.search(rf"^{name}:\t{value}$", status, re.M), f"{name} of the collector is not {value!r}:\n{status}")

    def is_healthy(self, path="/api/v1/health"):
        expect(self.process.poll() is None, "the collector ended: " + (self.process.stderr.read().decode() if self.process.poll() is not None else ""))
        # As a kubelet asks: whoever signed the certificate.
        trusting = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(f"https://127.0.0.1:{self.port}{path}", context=trusting, timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self):
        begin = time.monotonic()
        self.process.terminate()
        code = self.process.wait(timeout=self.grace)
        expect(code == 0, f"the collector ended with {code}")
        return time.monotonic() - begin


def substituted(value):
    """`${NAME:-default}` as compose reads it where the variable is not set."""
    if isinstance(value, str):
        return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
    if isinstance(value, list):
        return [substituted(item) for item in value]
    if isinstance(value, dict):
        return {key: substituted(item) for key, item in value.items()}
    return value


def seconds(text):
    return int(text.removesuffix("s"))


def compose(deploy, work, collector):
    file = substituted(yaml.safe_load((deploy / "compose/compose.yaml").read_text()))
    services = file["services"]
    for name, service in services.items():
        confined = service["read_only"] and service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"]
        expect(confined, f"compose: {name} is not confined")
    image = (deploy / "compose/Containerfile").read_text()
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", image, re.M)[1])
    volume, target = services["collector"]["volumes"][0].split(":")
    expect(volume in file["volumes"] and json.loads(re.search(r"^VOLUME (.*)$", image, re.M)[1]) == [target], "compose: another volume than the image's")
    user = int(services["collector"]["user"].split(":")[0])
    expect(f"USER {user}:{user}\n" in image, "compose: another user than the image's")

    def words(name):
        return entry + services[name]["command"]

    host = Host(work, collector, user, target)
    host.run(words("init"))
    host.run(words("init"), code=1)
    grace = seconds(services["collector"]["stop_grace_period"])
    port = int(services["collector"]["ports"][0].split(":")[-1])
    service = Service(host, words("collector"), port, grace)
    test = services["collector"]["healthcheck"]["test"]
    expect(test[0] == "CMD", "compose: the health check goes through a shell that an image may not have")
    host.run(test[1:])
    # As the file's own comment says.
    backup = host.run(["collector", "backup", "-"])
    service.stop()
    empty = Host(work, collector, user, target)
    empty.run(words("restore"), stdin=backup)
    took = Service(empty, words("collector"), port, grace).stop()
    shown(f"compose: init, run, health check, backup and restore by the file's own commands; stopped within {took:.1f} s of {grace} s")
    # What the image runs without a compose file.
    default = entry + json.loads(re.search(r"^CMD (.*)$", image, re.M)[1])
    Service(empty, default, port, grace).stop()


def pods(deploy):
    for path in sorted((deploy / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] == "Pod":
                yield document, document["spec"]
            elif document["kind"] == "StatefulSet":
                yield document, document["spec"]["template"]["spec"]


def kubernetes(deploy, work, collector):
    documents = list(yaml.safe_load_all((deploy / "kubernetes/collector.yaml").read_text()))
    of_kind = {document["kind"]: document for document in documents}
    for document, spec in pods(deploy):
        expect(spec["securityContext"]["runAsNonRoot"] and not spec["automountServiceAccountToken"], f"{document['metadata']['name']} is not confined")
        for container in spec.get("initContainers", []) + spec["containers"]:
            context = container["securityContext"]
            confined = context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"] and context["capabilities"] == {"drop": ["ALL"]}
            expect(confined, f"{container['name']} is not confined")
    spec = of_kind["StatefulSet"]["spec"]["template"]["spec"]
    labels = of_kind["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "NetworkPolicy", "PodDisruptionBudget"):
        part = of_kind[kind]["spec"]
        selected = part.get("podSelector") or part["selector"]
        expect(selected.get("matchLabels", selected) == labels, f"{kind} selects other pods")
    init, main = spec["initContainers"][0], spec["containers"][0]
    mounted = main["volumeMounts"][0]["mountPath"]
    host = Host(work, collector, spec["securityContext"]["runAsUser"], mounted)
    variable = init["env"][0]
    environment = {variable["name"]: of_kind["ConfigMap"]["data"][variable["valueFrom"]["configMapKeyRef"]["key"]]}
    for _ in range(2):
        host.run(init["command"], environment)
    data = f"{mounted}/collector"
    probe, port = main["readinessProbe"]["httpGet"], main["ports"][0]["containerPort"]
    expect(all(main[kind].get("httpGet") == probe for kind in ("startupProbe", "livenessProbe")), "a probe would count as a failed handshake")
    service = Service(host, main["command"] + main["args"], port, spec["terminationGracePeriodSeconds"])
    expect(probe["scheme"] == "HTTPS" and service.is_healthy(probe["path"]), "the readiness probe fails")
    host.run(["collector", "token", "--tenant", "acme", "--data-dir", data])
    backup = host.run(["collector", "backup", "-", "--data-dir", data])
    took = service.stop()
    # As restore.yaml says, in a pod of its own.
    restoring = next(spec for document, spec in pods(deploy) if document["kind"] == "Pod")
    mounts = restoring["containers"][0]["volumeMounts"][0]["mountPath"]
    empty = Host(work, collector, restoring["securityContext"]["runAsUser"], mounts)
    empty.start(restoring["containers"][0]["command"]).terminate()
    empty.run(["collector", "restore", "-", "--data-dir", data], stdin=backup)
    empty.run(init["command"], environment)
    Service(empty, main["command"] + main["args"], port, 40).stop()
    shown(f"Kubernetes: the init container twice, the collector, its probes, backup and restore; stopped within {took:.1f} s")


def main():
    deploy, collector = pathlib.Path(sys.argv[1]), sys.argv[2]
    work = tempfile.mkdtemp(prefix="picket-containers.", dir="/var/tmp")
    os.chmod(work, 0o755)
    try:
        compose(deploy, work, collector)
        kubernetes(deploy, work, collector)
    finally:
        # Its mounts end with the namespace; what is below them is memory.
        subprocess.run(["umount", "--lazy", "--recursive", *map(str, pathlib.Path(work).iterdir())], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(work, ignore_errors=True)


main()
