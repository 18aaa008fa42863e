"""What the kernel can take away from a process, without root: rlimits, Landlock, seccomp (Linux, x86_64 and aarch64).

Called in a freshly forked child before it runs anything. Standard library only: the worker loads this file by its path.
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
    if machine := _machine():
        for may_open in (True, False):
            _program(*machine, may_open)


def limit_resources(*, mapped: int, memory: int, cpu: int | None, file_size: int) -> str:
    """Set the rlimits of this process, for good; returns the phrase that describes them.

    Args:
        mapped: bytes of address space that are in use (`mapped_bytes`).
        memory: bytes of address space on top of these.
        cpu: CPU seconds over the life of the process (None: no limit).
        file_size: bytes of each file written.
    """
    limits = {
        resource.RLIMIT_AS: mapped + memory,
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for which, limit in limits.items():
        _lower(which, limit)
    if cpu is not None:
        _lower(resource.RLIMIT_CPU, cpu, grace=1)
    return "rlimits on memory, CPU time, file size, open files and processes"


def confine(*, folder: str, readable: Iterable[str], landlock: bool = True) -> tuple[str, ...]:
    """Take files, network, other processes and new processes away from this process, for good.

    With Landlock, libraries can be read and `folder` can be written. Without it no file can be opened at all, so what
    was not imported before stays out of reach.

    Args:
        folder: the temporary folder.
        readable: folders of libraries.
        landlock: False: do as if the kernel had none.

    Returns:
        A phrase for each protection now active; empty when the kernel offers no seccomp (nothing is confined then).
    """
    machine = _machine()
    if machine is None or not _die_with_parent():
        return ()
    files = landlock and _restrict_files(folder, readable)
    if not _filter_calls(*machine, may_open=files):
        return ()
    confined = "Landlock: files only in a temporary folder, libraries read-only" if files else "seccomp: no file opens"
    return (confined, "seccomp: no network, no new process or thread, no signal to another process")


def _machine() -> tuple[int, int] | None:
    known = sys.platform == "linux" and sys.byteorder == "little"
    return _ARCHITECTURES.get(platform.machine()) if known else None


def _die_with_parent() -> bool:
    libc = _libc()
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return bool(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)


def _restrict_files(folder: str, readable: Iterable[str]) -> bool:
    libc = _libc()
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    rights = sum(bits for since, bits in _FILE_RIGHTS.items() if since <= version)
    network = _NETWORK if version >= _NETWORK_SINCE else 0
    scope = _SCOPE if version >= _SCOPE_SINCE else 0
    size = 24 if scope else 16 if network else 8
    attributes = struct.pack("<QQQ", rights, network, scope)
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    for path, wanted in [*((path, _READ) for path in readable), (folder, _WRITE)]:
        _allow_beneath(ruleset, path, wanted & rights)
    done: int = libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return done == 0


def _allow_beneath(ruleset: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    _libc().syscall(_LANDLOCK_ADD_RULE, ruleset, 1, struct.pack("<Qi", rights, beneath), 0)
    os.close(beneath)


def _filter_calls(column: int, architecture: int, may_open: bool) -> bool:
    program = _program(column, architecture, may_open)
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_ = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    return bool(_libc().prctl(_PR_SET_SECCOMP, 2, filter_, 0, 0) == 0)


@lru_cache
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


def _lower(which: int, limit: int, grace: int = 0) -> None:
    hard = resource.getrlimit(which)[1]
    ceiling = limit + grace if hard == resource.RLIM_INFINITY else min(limit + grace, hard)
    resource.setrlimit(which, (min(limit, ceiling), ceiling))


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
