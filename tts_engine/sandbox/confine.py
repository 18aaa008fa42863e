"""What the kernel can take away from a process, without root: rlimits, Landlock, seccomp (Linux, x86_64 and aarch64).

`confine` is called in a freshly forked child before it runs anything; what it needs is made ready before the fork,
where it costs no copies of memory. Standard library only: the worker loads this file by its path.
Sources: landlock(7), seccomp(2), linux/landlock.h, linux/seccomp.h and the system call tables of both architectures.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from functools import lru_cache

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446

# Landlock file rights by the version (ABI) of the kernel's interface that brought them.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_READ = 1 << 2 | 1 << 3  # files and folders
_WRITE = _READ | 1 << 1 | 1 << 5 | 1 << 8 | 1 << 14  # write, remove and make regular files, truncate
_NETWORK_SINCE, _NETWORK = 4, 0b11  # TCP bind, connect
_SCOPE_SINCE, _SCOPE = 6, 0b11  # abstract sockets, signals

# The system calls that a computing interpreter needs: name, number on x86_64, number on aarch64.
_ALLOWED = """
read 0 63, write 1 64, close 3 57, stat 4 -, fstat 5 80, lstat 6 -, poll 7 -, lseek 8 62, mmap 9 222, mprotect 10 226,
munmap 11 215, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, pread64 17 67,
pwrite64 18 68, readv 19 65, writev 20 66, access 21 -, select 23 -, sched_yield 24 124, mremap 25 216, madvise 28 233,
dup 32 23, dup2 33 -, nanosleep 35 101, getpid 39 172, exit 60 93, uname 63 160, ftruncate 77 46, getcwd 79 17,
rename 82 -, unlink 87 -, gettimeofday 96 169, getrlimit 97 163, getrusage 98 165, sysinfo 99 179, times 100 153,
getuid 102 174, getgid 104 176, geteuid 107 175, getegid 108 177, getppid 110 173, sigaltstack 131 132,
arch_prctl 158 -, gettid 186 178, time 201 -, futex 202 98, sched_getaffinity 204 123, getdents64 217 61,
restart_syscall 219 128, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, exit_group 231 94,
newfstatat 262 79, unlinkat 263 35, renameat 264 38, faccessat 269 48, pselect6 270 72, ppoll 271 73, dup3 292 24,
renameat2 316 276, getrandom 318 278, statx 332 291, rseq 334 293, faccessat2 439 439
"""
_OPEN = "open 2 -, openat 257 56"
# Allowed for harmless values of one argument: name, numbers, index of the argument, values of its low and high half.
_FCNTL = ("fcntl 72 25", 1, (0, 1, 2, 3, 1030), None)  # duplicate a descriptor, read flags; no ownership of signals
_PRLIMIT = ("prlimit64 302 261", 2, (0,), (0,))  # ask, not set
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # classic BPF: load a word, jump if equal, return
_KILL, _ALLOW, _REFUSE = 0x80000000, 0x7FFF0000, 0x00050001  # refuse: error EPERM


def prepare() -> None:
    """Do once, before forking, what every fork would do again."""
    _libc()
    if _machine():
        _filter(may_open=True)
        _filter(may_open=False)


def limits(*, mapped: int, memory: int, cpu: int | None, file_size: int) -> list[tuple[int, tuple[int, int]]]:
    """The rlimits of a process that is to be confined: which, (soft, hard).

    Args:
        mapped: bytes of address space that are in use (`mapped_bytes`).
        memory: bytes of address space on top of these.
        cpu: CPU seconds over the life of the process (None: no limit).
        file_size: bytes of each file written.
    """
    wanted = {
        resource.RLIMIT_AS: mapped + memory,
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    found = [(which, _at_most(which, limit)) for which, limit in wanted.items()]
    return found if cpu is None else [*found, (resource.RLIMIT_CPU, _at_most(resource.RLIMIT_CPU, cpu, grace=1))]


LIMITED = "rlimits on memory, CPU time, file size, open files and processes"
"""The phrase for `limits`."""


def ruleset(folder: str, readable: Iterable[str]) -> int | None:
    """A Landlock ruleset, made before the fork that it confines: libraries can be read and `folder` can be written.

    Args:
        folder: the temporary folder.
        readable: folders of libraries.

    Returns:
        Its descriptor; None when the kernel has no Landlock.
    """
    version = _landlock_version()
    if version < 1:
        return None
    rights = sum(bits for since, bits in _FILE_RIGHTS.items() if since <= version)
    network = _NETWORK if version >= _NETWORK_SINCE else 0
    scope = _SCOPE if version >= _SCOPE_SINCE else 0
    size = 24 if scope else 16 if network else 8
    attributes = struct.pack("<QQQ", rights, network, scope)
    rules: int = _libc().syscall(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    if rules < 0:
        return None
    for path, wanted in [*((path, _READ) for path in readable), (folder, _WRITE)]:
        _allow_beneath(rules, path, wanted & rights)
    return rules


def confine(rules: int | None) -> tuple[str, ...]:
    """Take files, network, other processes and new processes away from this process, for good.

    Args:
        rules: of `ruleset`. Without them no file can be opened at all, so what was not imported before stays out of
            reach.

    Returns:
        A phrase for each protection now active; empty when the kernel offers no seccomp (nothing is confined then).
    """
    if _machine() is None or not _die_with_parent():
        return ()
    files = rules is not None and _libc().syscall(_LANDLOCK_RESTRICT_SELF, rules, 0) == 0
    if _libc().prctl(_PR_SET_SECCOMP, 2, _filter(may_open=files)[0], 0, 0):
        return ()
    confined = "Landlock: files only in a temporary folder, libraries read-only" if files else "seccomp: no file opens"
    return (confined, "seccomp: no network, no new process or thread, no signal to another process")


@lru_cache(maxsize=1)
def _machine() -> tuple[int, int] | None:
    known = sys.platform == "linux" and sys.byteorder == "little"
    return _ARCHITECTURES.get(platform.machine()) if known else None


@lru_cache(maxsize=1)
def _landlock_version() -> int:
    known = _machine() is not None
    return _libc().syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1) if known else -1


def _die_with_parent() -> bool:
    libc = _libc()
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return bool(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)


def _allow_beneath(rules: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it is not there, or not for us: nothing is allowed
        return
    _libc().syscall(_LANDLOCK_ADD_RULE, rules, 1, struct.pack("<Qi", rights, beneath), 0)
    os.close(beneath)


@lru_cache
def _filter(*, may_open: bool) -> tuple[bytes, object]:
    """What prctl takes as seccomp filter, and the memory that it points to."""
    machine = _machine()
    assert machine is not None
    program = _program(*machine, may_open)
    buffer = ctypes.create_string_buffer(program, len(program))
    return struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)), buffer


def _program(column: int, architecture: int, may_open: bool) -> bytes:
    """The filter in classic BPF: a list of allowed calls, everything else fails with EPERM."""
    code = [_instruction(_LOAD, 4), _instruction(_IF_EQUAL, architecture, 1, 0), _instruction(_RETURN, _KILL)]
    code.append(_instruction(_LOAD, 0))
    for number in _numbers(_ALLOWED + ("," + _OPEN if may_open else ""), column):
        code += _if_equal(number, [_instruction(_RETURN, _ALLOW)])
    for names, argument, low, high in (_FCNTL, _PRLIMIT):
        code += _if_equal(_numbers(names, column)[0], _check_argument(argument, low, high))
    return b"".join([*code, _instruction(_RETURN, _REFUSE)])


def _check_argument(index: int, low: tuple[int, ...], high: tuple[int, ...] | None) -> list[bytes]:
    passed = [_instruction(_RETURN, _ALLOW)]
    if high is not None:
        passed = _any_of(20 + 8 * index, high, passed)
    return [*_any_of(16 + 8 * index, low, passed), _instruction(_RETURN, _REFUSE)]


def _any_of(offset: int, values: tuple[int, ...], then: list[bytes]) -> list[bytes]:
    return [_instruction(_LOAD, offset), *(part for value in values for part in _if_equal(value, then))]


def _if_equal(value: int, then: list[bytes]) -> list[bytes]:
    return [_instruction(_IF_EQUAL, value, 0, len(then)), *then]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _numbers(table: str, column: int) -> list[int]:
    rows = (row.split() for row in table.split(","))
    return [int(row[1 + column]) for row in rows if row[1 + column] != "-"]


def _at_most(which: int, limit: int, grace: int = 0) -> tuple[int, int]:
    """Soft and hard limit, no higher than what this process has; `grace` lies between the two."""
    hard = resource.getrlimit(which)[1]
    ceiling = limit + grace if hard == resource.RLIM_INFINITY else min(limit + grace, hard)
    return min(limit, ceiling), ceiling


def mapped_bytes() -> int:
    """Bytes of address space in use (0 where there is no /proc)."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return 0


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
