"""Runs the terminal transcripts of the documentation and holds them against what really happens.

A page's ```console blocks are one shell session: `$ ` starts a command, `> ` continues it, other lines are what
it prints, stdout and stderr as on a terminal. A line `...` stands for any number of lines. What differs between
two runs (times, digests, ports, process numbers) is masked on both sides, and runs of blanks count as one.

A block under `<!-- not run: REASON -->` is not run. The lines of a `<!-- setup` comment are run without being
compared, and must succeed.

`python -m tests.docs.console PAGE...` writes what really happens into the pages.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployctl.system import find_actor

ROOT = Path(__file__).parents[2]
PAGE_TIMEOUT_S = 240
DOWN_TIMEOUT_S = 60
# The names that the pages show for what is this machine's own.
SHOWN_ACTOR = "ada@dev"
SHOWN_HOME = "/home/ada"
SHOWN_PREFIX = "/opt/deployctl"
SHOWN_PORTS = ("8501", "8500")
_MARK = "\x1e"
_NOT_RUN = re.compile(r"<!-- not run: \S.*-->")
_MASKS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), mask)
    for pattern, mask in (
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.,]*Z?", "TIME"),
        (r"\d{8}T\d{6,9}-[0-9a-f]{8}", "OPERATION"),
        (r"sha256:[0-9a-f]+…?", "DIGEST"),
        (r"\b[0-9a-f]{64}\b", "HASH"),
        (r'("\w+_s": )[-+.\de]+', r"\1SECONDS"),
        (r"\b\d+(\.\d+)? (ms|s|min|h|d)\b( \d+ (s|min|h)\b)?", "DURATION"),
        (r"\b(pid|process) \d+", r"\1 NUMBER"),
        (r'("pid": ")\d+', r"\1NUMBER"),
        (r"\d+(\.\d+)? GB free", "SIZE free"),
        (r"\b0\d{3}\b", "SCHEMA"),
        (r"\b\d+ MB\b", "SIZE"),
        (r"\S+/site-packages/", "SITE/"),
        (r"\[\d+\]\d*: [A-Z]", "LOG"),
        (r"[ \t]+", " "),
    )
)


@dataclass(frozen=True, slots=True)
class Step:
    """One command; `shown` is None for one of a setup comment.

    Attributes:
        line: of the command in the page, from 1.
        end: the last line of what it shows.
    """

    line: int
    end: int
    command: str
    shown: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command printed, as a page would show it, and its exit code."""

    step: Step
    printed: tuple[str, ...]
    status: int

    @property
    def differs(self) -> str | None:
        """Says what is not as the page shows it, or None."""
        if self.step.shown is None:
            return f"exits with {self.status}: {' / '.join(self.printed)}" if self.status else None
        if matches(self.step.shown, self.printed):
            return None
        return "\n".join(["shows", *self.step.shown, "but prints", *self.printed])


def steps(text: str) -> list[Step]:
    """Returns the commands of a page, in order."""
    lines = text.splitlines()
    found: list[Step] = []
    index = 0
    while index < len(lines):
        if lines[index] == "```console":
            end = lines.index("```", index)
            if not _NOT_RUN.fullmatch(_before(lines, index)):
                found += _block(lines, index + 1, end)
            index = end
        elif lines[index] == "<!-- setup":
            end = lines.index("-->", index)
            found += [Step(line + 1, line + 1, lines[line], None) for line in range(index + 1, end)]
            index = end
        index += 1
    return found


def _before(lines: Sequence[str], index: int) -> str:
    return next((line for line in reversed(lines[:index]) if line.strip()), "")


def _block(lines: Sequence[str], first: int, end: int) -> Iterator[Step]:
    line = first
    while line < end:
        if not lines[line].startswith("$ "):
            raise ValueError(f"line {line + 1}: a console block shows output before a command")
        start, words = line, [lines[line][2:]]
        line += 1
        while line < end and lines[line].startswith("> "):
            words.append(lines[line][2:])
            line += 1
        shown_from = line
        while line < end and not lines[line].startswith("$ "):
            line += 1
        yield Step(start + 1, line, "\n".join(words), tuple(lines[shown_from:line]))


def masked(line: str) -> str:
    """Returns `line` without what differs from run to run."""
    for pattern, mask in _MASKS:
        line = pattern.sub(mask, line)
    return line.strip()


def matches(shown: Sequence[str], printed: Sequence[str]) -> bool:
    """Whether `printed` is what the page shows; a shown `...` is any number of lines."""
    if not shown:
        return not printed
    if shown[0] == "...":
        return any(matches(shown[1:], printed[skipped:]) for skipped in range(len(printed) + 1))
    return bool(printed) and masked(shown[0]) == masked(printed[0]) and matches(shown[1:], printed[1:])


@dataclass(frozen=True, slots=True)
class Workspace:
    """An empty home directory in which `deployctl` is this checkout's, with a pair of ports of its own.

    The checkout itself is `~/deployctl`.
    """

    home: Path
    ports: tuple[str, str]

    def run(self, page: Sequence[Step]) -> list[Ran]:
        """Runs the commands in one shell, in `~/demo`."""
        script, output = self.home / ".script", self.home / ".output"
        script.write_text("".join(self._shell(step) for step in page))
        with output.open("wb") as stream:
            process = subprocess.Popen(
                ["bash", "--norc", "--noprofile", str(script)],
                cwd=self.home / "demo",
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(PAGE_TIMEOUT_S)
            finally:
                # Also what the page left in the background.
                end_group(process.pid)
                process.wait(DOWN_TIMEOUT_S)
        parts = output.read_text(errors="replace").split(_MARK)
        pairs = zip(page, parts[0::2], parts[1::2], strict=False)
        ran = [Ran(step, tuple(self._displayed(text)), int(status)) for step, text, status in pairs]
        if len(ran) < len(page):
            raise AssertionError(f"line {page[len(ran)].line}: the shell ended before this: {parts[-1]}")
        return ran

    def environment(self) -> dict[str, str]:
        """Returns what commands get: nothing of the caller's settings or CI."""
        path = [str(self.home / ".bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "/usr/bin:/bin")]
        return {
            "PATH": os.pathsep.join(path),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "120",
            "TMPDIR": tempfile.gettempdir(),
        }

    def stop_servers(self) -> None:
        """Stops every server that a page left running."""
        for record in self.home.glob("*/.deployctl/*/server.json"):
            target, directory = record.parent.name, record.parents[2]
            subprocess.run(
                [str(self.home / ".bin" / "deployctl"), "down", target],
                cwd=directory,
                env=self.environment(),
                capture_output=True,
                timeout=DOWN_TIMEOUT_S,
                check=False,
            )

    def _shell(self, step: Step) -> str:
        command = step.command
        for shown, real in zip(SHOWN_PORTS, self.ports, strict=True):
            command = command.replace(shown, real)
        # Each command sees the exit code of the one before it in $?.
        return f"(exit ${{_status:-0}})\n{command}\n_status=$?; printf '{_MARK}%d{_MARK}' $_status\n"

    def _displayed(self, text: str) -> list[str]:
        for shown, real in zip(SHOWN_PORTS, self.ports, strict=True):
            text = text.replace(real, shown)
        actor = find_actor({}, [])
        text = text.replace(str(actor), SHOWN_ACTOR).replace(str(self.home), SHOWN_HOME)
        text = text.replace(sys.prefix, SHOWN_PREFIX)
        user, host = SHOWN_ACTOR.split("@")
        text = text.replace(f'"user": "{actor.user}"', f'"user": "{user}"')
        text = text.replace(f'"host": "{actor.host}"', f'"host": "{host}"')
        return [line.rstrip() for line in text.splitlines()]


def end_group(group: int) -> None:
    """Kills the process group `group`, if there is one."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


@contextmanager
def workspace(directory: Path) -> Iterator[Workspace]:
    """Makes a workspace in an empty directory; no server of it is left when the block ends."""
    home = directory.resolve()
    (home / "demo").mkdir()
    (home / "deployctl").symlink_to(ROOT)
    place = Workspace(home, _free_ports())
    _write_program(home / ".bin" / "deployctl", _deployctl(place.ports))
    server = f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -P -m deployctl.modelserver.main "$@"\n'
    _write_program(home / ".bin" / "deployctl-model-server", server)
    _write_program(home / ".bin" / "curl", f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests/docs/curl.py"} "$@"\n')
    try:
        yield place
    finally:
        place.stop_servers()


def _deployctl(ports: tuple[str, str]) -> str:
    """Returns a shell program: this checkout's command, whose `init` writes the workspace's ports."""
    run = f'PYTHONPATH={ROOT} {sys.executable} -P -m deployctl.cli "$@"'
    rewrite = " ".join(f"-e s/{shown}/{real}/" for shown, real in zip(SHOWN_PORTS, ports, strict=True))
    return f"""#!/bin/sh
{run}
status=$?
[ "$1" = init ] && find . -name deployctl.toml -exec sed -i {rewrite} {{}} +
exit $status
"""


def _write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _free_ports() -> tuple[str, str]:
    """Returns two ports below those that the system gives out itself, so that parallel tests don't meet there."""
    found: list[str] = []
    while len(found) < 2:
        port = random.SystemRandom().randrange(20000, 30000)
        text = str(port)
        if any(shown in text for shown in SHOWN_PORTS) or text in found:
            continue
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(text)
    return found[0], found[1]


def rewritten(text: str, ran: Sequence[Ran]) -> str:
    """Returns a page's text with what really was printed, where it shows something else."""
    lines = text.splitlines()
    for each in reversed(ran):
        if each.step.shown is not None and each.differs and not _crashed(each):
            start = each.step.end - len(each.step.shown)
            lines[start : each.step.end] = each.printed
    return "\n".join(lines) + "\n"


def _crashed(ran: Ran) -> bool:
    """Whether the command ended with a traceback, which no page shows."""
    return any(line.startswith("Traceback (most recent call last)") for line in ran.printed)


def main(pages: Sequence[str]) -> int:
    """Writes what really happens into the pages; returns 1 if a setup command failed."""
    failed = 0
    for page in map(Path, pages):
        text = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as directory, workspace(Path(directory)) as place:
            ran = place.run(steps(text))
        page.write_text(rewritten(text, ran), encoding="utf-8")
        for each in ran:
            if each.differs and (each.step.shown is None or _crashed(each)):
                failed = 1
                sys.stderr.write(f"{page}:{each.step.line}: {each.step.command} {each.differs}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
