"""
sluice as a service of a real systemd.

Run by itself this module boots a throw-away systemd (tools/systemd-box, when it stands beside the checkout) and runs
itself again inside; there the tests of this file do what an administrator, a crash and a watchdog do. Where no
such box can be had, one line says so; test_notify.py speaks with a notify socket of its own then.

Every test with data flowing ends on the same oracle: the ids in the output are 1, 2, 3, ... without a gap or a
repeat, up to what the producer says it has taken.
"""

import grp
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import textwrap

import pytest
from conftest import ROOT, wait_for

BOX = "SYSTEMD_BOX" in os.environ
TOOL = next((p for p in (ROOT / "../shared/tools/systemd-box", ROOT / "../../shared/tools/systemd-box") if p.exists()),
            None)
STATE = pathlib.Path("/var/lib/sluice")
CONFIG = pathlib.Path("/etc/sluice/sluice.yaml")
OUT = STATE / "out.ndjson"
DEADLINE = float(os.environ.get("SLUICE_TEST_DEADLINE", "90"))  # seconds; a noisy machine

inside = pytest.mark.skipif(not BOX, reason="runs in the box of test_in_a_box")
outside = pytest.mark.skipif(BOX, reason="this is the box")


def box_or_skip():
    if os.geteuid() != 0 or TOOL is None or subprocess.run([TOOL, "check"], capture_output=True).returncode != 0:
        pytest.skip("no systemd-box here")


def run_in_box(keyword, timeout=540):
    p = subprocess.run([TOOL, "run", "-t", str(timeout), "--", "/usr/bin/python3", "-m", "pytest", "-q", "-rs", "-p",
                        "no:cacheprovider", "-k", keyword, str(pathlib.Path(__file__))],
                       capture_output=True, text=True, cwd=ROOT)
    print(p.stdout[-20000:], p.stderr[-4000:])
    assert p.returncode == 0, p.stdout[-6000:] + p.stderr[-2000:]


@outside
def test_in_a_box():
    box_or_skip()
    run_in_box("not package and not box")


@outside
def test_package_in_a_box():
    """In a box of its own: there must be nothing of an installation."""
    box_or_skip()
    if not shutil.which("dpkg-buildpackage") or not shutil.which("dh"):
        pytest.skip("no debhelper here")
    subprocess.run(["make", "-s", "deb"], cwd=ROOT, check=True, capture_output=True)
    run_in_box("package and not box")


@pytest.fixture
def bare():
    """A minimal Debian of this release, with what the package needs in apt's cache; made once, by debootstrap."""
    box_or_skip()
    release = platform.freedesktop_os_release()
    if not shutil.which("debootstrap") or not shutil.which("dh") or release["ID"] != "debian":
        pytest.skip("no debootstrap, no debhelper or no Debian here")
    subprocess.run(["make", "-s", "deb"], cwd=ROOT, check=True, capture_output=True)
    deb = next((ROOT / "build" / "deb").glob("sluice_*.deb"))
    root = ROOT / "build" / f"bare-{release['VERSION_CODENAME']}"
    if not root.exists():
        half = root.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        p = subprocess.run(["debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv,dbus",
                            release["VERSION_CODENAME"], half], capture_output=True, text=True)
        if p.returncode != 0:
            pytest.skip(f"debootstrap: {p.stdout[-300:]}{p.stderr[-300:]}")
        half.rename(root)
    shutil.copy(deb, root / "root/sluice.deb")
    fetch = ["chroot", root, "apt-get", "install", "-y", "--no-install-recommends", "--download-only",
             "/root/sluice.deb"]
    p = subprocess.run(fetch, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if "Unable to fetch" in p.stderr or "Could not resolve" in p.stderr:
        pytest.skip(f"no network: {p.stderr[-300:]}")
    assert p.returncode == 0, p.stdout[-3000:] + p.stderr[-3000:]
    return root


# what happens on the bare system; every step must succeed
BARE = r"""
set -eux
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
not() { if "$@"; then return 1; fi; }
ours() { find / -xdev -iname '*sluice*' ! -path '/root/*'; }
test -z "$(ours)"
apt-get install -y --no-install-recommends /root/sluice.deb
systemctl is-enabled sluiced
systemctl is-active sluiced
seq 100000 | awk '{printf "{\"id\":%d,\"text\":\"r%d\"}\n", $1, $1 * 7}' >/root/in
out=/var/lib/sluice/records.jsonl
all() { for _ in $(seq 300); do cmp -s /root/in $out && return; sleep 0.1; done; cmp /root/in $out; }
feed() { sluicectl send --to tcp://127.0.0.1:5555 --ack --id one --quiet /root/in; }
feed
all
sluicectl status
sluicectl audit
systemctl restart sluiced
feed                              # the same again: known, over a restart
sluicectl drain
all
systemctl stop sluiced
systemctl start sluiced
feed                              # and over a stop
sluicectl drain
all
sluicectl audit
test -z "$(systemctl --failed --no-legend)"
dpkg -r sluice                    # without the programs the data stay
not systemctl is-active sluiced
getent passwd sluice
all
apt-get install -y --no-install-recommends /root/sluice.deb
systemctl start sluiced
sluicectl audit
apt-get purge -y sluice
ours
test -z "$(ours)"
not getent passwd sluice
not getent group sluice
test ! -e /run/sluice
test "$(systemctl show -P LoadState sluiced)" = not-found
test -z "$(systemctl list-units --all --no-legend '*sluice*')"
not grep -l '^sluice' /proc/[0-9]*/comm
echo all of it
"""


@outside
def test_package_on_a_bare_debian(bare):
    p = subprocess.run([TOOL, "run", "-t", "200", "--root", bare, "--", "/bin/bash", "-c", BARE],
                       capture_output=True, text=True)
    print(p.stdout[-9000:], p.stderr[-9000:])
    assert p.returncode == 0 and p.stdout.endswith("all of it\n"), p.stdout[-3000:] + p.stderr[-3000:]


@outside
def test_unit_files():
    """Exposure at most 1.0; nothing in the units that systemd does not know."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    p = subprocess.run(["make", "-s", "service-check"], cwd=ROOT, capture_output=True, text=True)
    print(p.stdout, p.stderr)
    assert p.returncode == 0, p.stdout + p.stderr
    assert "Unknown" not in p.stdout + p.stderr


# ---- inside ----


def sh(*words, check=True, **more):
    p = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=DEADLINE, **more)
    assert not check or p.returncode == 0, f"{words}: {p.returncode}\n{p.stdout}{p.stderr}{journal()[-3000:]}"
    return p


def journal():
    return subprocess.run(["journalctl", "-b", "--no-pager", "-o", "cat"], capture_output=True, text=True).stdout


def show(name, unit="sluiced"):
    return sh("systemctl", "show", "-P", name, unit).stdout.strip()


def ask(*words):
    p = sh("sluicectl", "--json", *words, check=False)
    return json.loads(p.stdout)


def main_pid():
    return int(show("MainPID"))


def worker(stage, index=0):
    return next(w for w in ask("workers")["workers"] if w["stage"] == stage and w["index"] == index)


def ids(path=OUT):
    if not path.exists():
        return []
    with path.open("rb") as f:
        return [json.loads(line)["id"] for line in f]


def until(condition, what):
    return wait_for(condition, DEADLINE, what)


def flowing(least):
    """At least so many lines are in the output."""
    return until(lambda: OUT.exists() and OUT.read_bytes().count(b"\n") >= least, f"{least} records in the output")


def no_gap_no_repeat(have=None):
    have = ids() if have is None else have
    assert have, "nothing came out"
    assert sorted(have) == list(range(min(have), min(have) + len(have))), "a gap or a repeat"
    assert min(have) in (0, 1)
    return len(have)


PIPE = """
    arena: {size: 16MiB, buffer: 64KiB}
    state: {size: 16MiB}
    daemon: {confine: required, stop_timeout: 60s}
    producers:
      gen: {type: generate, rate: 20000, record: {id: =seq, pad: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx}}
    transformers:
      mid: {steps: [{filter: {pad: {matches: "^x+$"}}}, {set: {x: 1}}], stall_timeout: 2s}
    consumers:
      out: {type: file, path: /var/lib/sluice/out.ndjson, codec: json}
"""


def configure(text=PIPE):
    CONFIG.write_text(textwrap.dedent(text))


def drop_in(text, unit="sluiced.service", name="test"):
    d = pathlib.Path(f"/etc/systemd/system/{unit}.d")
    d.mkdir(parents=True, exist_ok=True)
    (d / f"{name}.conf").write_text(textwrap.dedent(text))
    sh("systemctl", "daemon-reload")


@pytest.fixture(scope="session")
def installed():
    sh("make", "-s", "install", "PREFIX=/usr", "LIBDIR_SYSTEMD=/usr/lib", cwd=ROOT)
    sh("systemd-sysusers")
    sh("systemd-tmpfiles", "--create", "sluice.conf")
    sh("systemctl", "daemon-reload")


@pytest.fixture
def service(installed):
    configure()
    yield
    for unit in ("sluiced.socket", "sluiced.service"):
        sh("systemctl", "stop", unit, check=False)
    sh("systemctl", "reset-failed", check=False)
    shutil.rmtree("/etc/systemd/system/sluiced.service.d", ignore_errors=True)
    for p in STATE.iterdir() if STATE.exists() else []:
        shutil.rmtree(p) if p.is_dir() else p.unlink()
    sh("systemctl", "daemon-reload")


@inside
def test_start_is_ready_after_the_stages(service):
    sh("systemctl", "start", "sluiced")
    status = ask("status")
    assert status["state"] == "running"
    assert not [s for s in status["stages"] if s["state"] == "starting"]
    until(lambda: "records/s in" in show("StatusText") and "; 0 records" not in show("StatusText"), "a rate")
    for w in ask("workers")["workers"]:
        assert w["not_confined"] == [] and "calls" in w["confined"], w
        assert int(sh("stat", "-c", "%u", f"/proc/{w['pid']}").stdout) != 0
    assert show("NFileDescriptorStore") == "2"  # arena, control socket
    flowing(1000)
    print("status:", show("StatusText"))


@inside
def test_a_stage_that_cannot_start_does_not_hold_the_others(service):
    configure(PIPE.replace("60s}", "1s}") + "      bad: {from: mid, type: file, path: /proc/nowhere/x, codec: json, quota: 2, full: drop}\n")
    sh("systemctl", "start", "sluiced")
    until(lambda: next(s for s in ask("status")["stages"] if s["name"] == "bad")["state"] == "unreachable", "bad")
    flowing(1000)
    until(lambda: "wait for the outside" in show("StatusText"), "the status to say so")
    lines = [json.loads(x) for x in sh("journalctl", "-u", "sluiced", "-o", "json", "--no-pager").stdout.splitlines()]
    fields = [x for x in lines if x.get("SLUICE_STAGE") == "bad"]
    assert fields and fields[0]["SLUICE_WORKER"] == "0" and len(fields[0]["MESSAGE_ID"]) == 32
    assert fields[0]["PRIORITY"] == "4" and fields[0]["SYSLOG_IDENTIFIER"] == "sluiced"


@inside
def test_stop_drains_and_the_next_start_goes_on(service):
    sh("systemctl", "start", "sluiced")
    flowing(10000)
    lost = journal().count("are lost")
    sh("systemctl", "stop", "sluiced")
    first = no_gap_no_repeat()
    assert journal().count("are lost") == lost
    sh("systemctl", "start", "sluiced")
    flowing(first + 5000)
    sh("systemctl", "stop", "sluiced")
    assert no_gap_no_repeat() > first


@inside
def test_restart_with_a_new_binary(service):
    sh("systemctl", "start", "sluiced")
    flowing(5000)
    for _ in range(3):
        before = OUT.read_bytes().count(b"\n")
        shutil.copy2("/usr/bin/sluiced", "/usr/bin/sluiced.new")
        os.replace("/usr/bin/sluiced.new", "/usr/bin/sluiced")
        sh("systemctl", "restart", "sluiced")
        flowing(before + 2000)
    sh("systemctl", "stop", "sluiced")
    no_gap_no_repeat()


def fill_and_kill():
    """Chunks in flight, then SIGKILL for the master. Returns its pid."""
    sh("sluicectl", "pause", "out")
    until(lambda: ask("audit")["in_flight"] > 1000, "records in flight")
    pid = main_pid()
    os.kill(pid, signal.SIGKILL)
    return pid


@inside
def test_kill_of_the_master(service):
    sh("systemctl", "start", "sluiced")
    flowing(2000)
    for _ in range(3):
        before = OUT.read_bytes().count(b"\n")
        pid = fill_and_kill()
        until(lambda: main_pid() not in (0, pid) and show("ActiveState") == "active", "a new master")
        flowing(before + 2000)
    assert "recovered" in journal()
    sh("systemctl", "stop", "sluiced")
    no_gap_no_repeat()


@inside
def test_watchdog_restarts_a_master_that_stands_still(service):
    drop_in("[Service]\nWatchdogSec=3s\nTimeoutAbortSec=2s\n")
    sh("systemctl", "start", "sluiced")
    flowing(2000)
    pid = main_pid()
    os.kill(pid, signal.SIGSTOP)
    until(lambda: main_pid() not in (0, pid) and show("ActiveState") == "active", "a new master")
    assert "watchdog" in sh("journalctl", "-b", "--no-pager").stdout.lower()
    before = OUT.read_bytes().count(b"\n")
    flowing(before + 2000)
    sh("systemctl", "stop", "sluiced")
    no_gap_no_repeat()


@inside
def test_a_worker_that_stands_still_is_replaced(service):
    drop_in("[Service]\nWatchdogSec=5s\n")
    sh("systemctl", "start", "sluiced")
    flowing(2000)
    pid, master = worker("mid")["pid"], main_pid()
    os.kill(pid, signal.SIGSTOP)
    until(lambda: worker("mid")["pid"] not in (0, pid), "another worker")
    before = OUT.read_bytes().count(b"\n")
    flowing(before + 2000)
    assert main_pid() == master and show("NRestarts") == "0"
    sh("systemctl", "stop", "sluiced")
    no_gap_no_repeat()


@inside
def test_reload_good_and_bad(service):
    sh("systemctl", "start", "sluiced")
    flowing(2000)
    gen, mid, master = worker("gen")["pid"], worker("mid")["pid"], main_pid()
    configure(PIPE.replace("x: 1", "x: 2"))
    sh("systemctl", "reload", "sluiced")
    assert worker("gen")["pid"] == gen and worker("mid")["pid"] not in (0, mid)
    until(lambda: b'"x":2' in OUT.read_bytes()[-4000:], "the new step")
    configure(PIPE.replace("generate", "degenerate"))
    assert sh("systemctl", "reload", "sluiced", check=False).returncode != 0
    assert "degenerate" in journal()
    p = sh("sluicectl", "reload", check=False)
    assert p.returncode == 1 and "sluice.yaml:6:" in p.stdout + p.stderr
    assert main_pid() == master and show("ActiveState") == "active"
    before = OUT.read_bytes().count(b"\n")
    flowing(before + 2000)
    configure()
    sh("systemctl", "reload", "sluiced")
    sh("systemctl", "stop", "sluiced")
    no_gap_no_repeat()


@inside
def test_socket_activation(service):
    sh("systemctl", "start", "sluiced.socket")
    assert show("ActiveState") == "inactive"
    until(lambda: ask("status")["state"] == "running", "the first command to start the daemon")
    assert show("ActiveState") == "active"
    flowing(1000)
    pid = main_pid()
    os.kill(pid, signal.SIGKILL)
    until(lambda: ask("status")["pid"] != pid, "the next one to answer at the same socket")
    sh("systemctl", "stop", "sluiced.socket")
    sh("systemctl", "stop", "sluiced")
    no_gap_no_repeat()


@inside
def test_a_stranger_may_look_only_as_a_member(service):
    sh("systemctl", "start", "sluiced")
    assert sh("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sluicectl", "status",
              check=False).returncode == 2
    group = str(grp.getgrnam("sluice").gr_gid)
    member = ["setpriv", "--reuid=65534", "--regid=65534", f"--groups={group}", "sluicectl"]
    assert sh(*member, "status").returncode == 0
    p = sh(*member, "pause", "gen", check=False)
    assert p.returncode == 1, p.stdout + p.stderr


@inside
def test_credential(service):
    zmq = pytest.importorskip("zmq")
    os.makedirs("/etc/sluice/clients", exist_ok=True)
    for name in ("server", "one"):
        for suffix in ("", "_secret"):
            pathlib.Path(f"/etc/sluice/{name}{suffix}").unlink(missing_ok=True)
        sh("sluicectl", "keygen", f"/etc/sluice/{name}")
    shutil.copy("/etc/sluice/one", "/etc/sluice/clients/one")
    assert os.stat("/etc/sluice/server_secret").st_mode & 0o77 == 0  # root's alone
    drop_in("[Service]\nLoadCredential=server:/etc/sluice/server_secret\n")
    configure("""
        arena: {size: 16MiB, buffer: 64KiB}
        state: {size: 16MiB}
        daemon: {confine: required}
        producers:
          in:
            type: zmq
            listen: tcp://127.0.0.1:5671
            socket: pull
            codec: json
            curve: {server_secret: "file:${CREDENTIALS_DIRECTORY}/server", clients: /etc/sluice/clients}
        consumers:
          out: {type: file, path: /var/lib/sluice/out.ndjson, codec: json}
    """)
    sh("systemctl", "start", "sluiced")
    import zmq.auth
    sh("ip", "link", "set", "lo", "up", check=False)
    context = zmq.Context()
    s = context.socket(zmq.PUSH)
    s.curve_publickey, s.curve_secretkey = zmq.auth.load_certificate("/etc/sluice/one_secret")
    s.curve_serverkey = zmq.auth.load_certificate("/etc/sluice/server")[0]
    s.linger, s.sndtimeo = 5000, int(DEADLINE * 1000)
    s.connect("tcp://127.0.0.1:5671")
    for i in range(1000):
        s.send(b'{"id":%d}' % (i + 1))
    flowing(1000)
    assert no_gap_no_repeat() == 1000
    context.destroy(linger=0)


def kills():
    """How many processes of the service the kernel has killed for memory; None: nobody counts."""
    for tree, name in (("", "memory.events"), ("memory/", "memory.oom_control")):
        p = pathlib.Path(f"/sys/fs/cgroup/{tree}system.slice/sluiced.service/{name}")
        if p.exists():
            return int(next(x.split()[1] for x in p.read_text().splitlines() if x.startswith("oom_kill ")))
    return None


@inside
def test_memory_max_kills_one_process(service):
    """A program of an exec step grows without end, once: the kernel kills it, the rest goes on."""
    STATE.mkdir(exist_ok=True)
    drop_in("[Service]\nMemoryMax=250M\nMemorySwapMax=0\n")
    sh("systemctl", "start", "sluiced")
    if kills() is None:
        pytest.skip("no memory controller in the box")
    sh("systemctl", "stop", "sluiced")
    OUT.unlink()
    script = pathlib.Path("/usr/lib/eat.py")
    script.write_text(textwrap.dedent("""
        import json, os, sys
        for line in sys.stdin:
            r = json.loads(line)
            mark = "/var/lib/sluice/eaten"
            if r["id"] == 3000 and not os.path.exists(mark):
                open(mark, "w").close()
                hog = []
                while True:
                    hog.append(b"x" * (1 << 20))
            print(line, end="", flush=True)
    """))
    configure(PIPE.replace("{set: {x: 1}}", "{exec: {command: [python3, /usr/lib/eat.py]}}")
              .replace("stall_timeout: 2s", "stall_timeout: 60s").replace("rate: 20000", "rate: 2000"))
    (STATE / "carry").unlink(missing_ok=True)
    shutil.rmtree(STATE / "state", ignore_errors=True)
    sh("systemctl", "start", "sluiced")
    pid = main_pid()
    flowing(4000)
    assert (STATE / "eaten").exists()
    assert kills() >= 1
    assert main_pid() == pid and show("ActiveState") == "active" and show("NRestarts") == "0"
    sh("systemctl", "stop", "sluiced")
    no_gap_no_repeat()


def patch_layout(pid, change):
    """Adds @change to the layout number of the arena that process @pid holds in memory."""
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            if "memfd:sluice-arena" not in os.readlink(fd):
                continue
        except OSError:
            continue
        with open(fd, "r+b", buffering=0) as f:
            f.seek(8)
            layout = int.from_bytes(f.read(4), "little")
            f.seek(8)
            f.write((layout + change).to_bytes(4, "little"))
        return
    raise AssertionError("no arena there")


@inside
def test_another_layout_is_refused_and_nothing_is_lost(service):
    sh("systemctl", "start", "sluiced")
    flowing(2000)
    sh("sluicectl", "pause", "out")
    until(lambda: ask("audit")["in_flight"] > 1000, "records in flight")
    patch_layout(1, 1)  # systemd holds it too
    before = OUT.read_bytes().count(b"\n")
    os.kill(main_pid(), signal.SIGKILL)
    until(lambda: "another version" in journal(), "the refusal")
    until(lambda: int(show("NRestarts")) >= 2, "systemd to go on trying")
    patch_layout(1, -1)  # the old version is back
    until(lambda: show("ActiveState") == "active", "the daemon to run again")
    flowing(before + 2000)
    sh("systemctl", "stop", "sluiced")
    no_gap_no_repeat()


@inside
def test_several_daemons(service):
    for name in ("a", "b"):
        d = pathlib.Path(f"/etc/sluice/{name}")
        d.mkdir(exist_ok=True)
        (d / "sluice.yaml").write_text(textwrap.dedent(PIPE).replace("/var/lib/sluice/", f"/var/lib/sluice/{name}/"))
        sh("systemctl", "start", f"sluiced@{name}")
    for name in ("a", "b"):
        sh("sluicectl", "-s", f"/run/sluice/{name}/control.sock", "status")
        out = STATE / name / "out.ndjson"
        until(lambda: len(ids(out)) > 1000, "records")
        sh("systemctl", "reload", f"sluiced@{name}")
        sh("systemctl", "stop", f"sluiced@{name}")
        no_gap_no_repeat(ids(out))


@inside
def test_security_figures(installed):
    p = sh("systemd-analyze", "security", "--threshold=10", "--no-pager", "sluiced.service", check=False)
    print(p.stdout.splitlines()[-1])
    assert p.returncode == 0
    p = sh("systemd-analyze", "verify", "sluiced.service", "sluiced.socket", "sluiced@x.service", check=False)
    print("verify:", p.returncode, p.stderr)
    assert p.returncode == 0 and "sluice" not in p.stderr


# ---- the package, in a box of its own ----


@inside
def test_package():
    deb = next((ROOT / "build" / "deb").glob("sluice_*.deb"))
    if shutil.which("lintian"):
        p = subprocess.run(["lintian", "--allow-root", "--fail-on", "error", deb], capture_output=True, text=True)
        print("lintian:", p.returncode, p.stdout)
        assert p.returncode == 0, p.stdout
    sh("dpkg", "-i", deb, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    assert show("UnitFileState") == "enabled"
    sh("systemctl", "start", "sluiced")
    assert ask("status")["state"] == "running"  # with the configuration that comes with it
    assert "sluice" in sh("getent", "passwd", "sluice").stdout
    configure()
    sh("systemctl", "restart", "sluiced")
    flowing(1000)
    sh("systemctl", "stop", "sluiced")
    no_gap_no_repeat()
    if shutil.which("man"):
        for page in ("sluiced", "sluicectl", "sluice.yaml"):
            sh("man", "-w", page)
    sh("dpkg", "-P", "sluice")
    for gone in ("/var/lib/sluice", "/etc/sluice", "/run/sluice", "/usr/bin/sluiced",
                 "/lib/systemd/system/sluiced.service", "/etc/systemd/system/multi-user.target.wants/sluiced.service"):
        assert not os.path.exists(gone), gone
    assert sh("getent", "passwd", "sluice", check=False).returncode != 0
    assert show("LoadState") == "not-found"
