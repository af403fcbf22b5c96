//! Makes the guest's memory huge pages again: before a pause, and after the save.
//!
//! Within the pause QEMU reads one byte of each page to protect it (`ram_write_tracking_prepare` in its sources), and the
//! protection splits huge pages for good: the first save of a guest is quick, every later one takes 512 times as many
//! steps, and the guest itself is slower from then on. So the kernel is asked to put them together again, while the guest
//! runs. It costs next to no memory: pages that hold nothing are filled up only to a hundredth of what QEMU takes.
//!
//! The process is not trusted: what is read of it is bounded, and what is done to it could at worst cost its own guest
//! time.

mod pieces;
mod policy;

use std::fmt;
use std::fs;
use std::io::{BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use procfs::FromBufRead as _;
use procfs::process::{
    self, MMPermissions, MemoryMap, MemoryMaps, MemoryPageFlags, PageInfo, VmFlags,
};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use self::pieces::{Page, Piece};
use self::policy::{Mapping, Wanted};
use super::super::Process;
use crate::interrupt::{Deadline, Watch};
use crate::syscalls;

/// Where the kernel says what it does about huge pages.
const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";
/// More of `smaps` is not read: some thousand mappings, of which QEMU has some hundred.
const SMAPS_MAX_BYTES: u64 = 16 << 20;
/// A page that is as large as a huge one's usual pieces, and no larger huge page is dealt with, in bytes.
const HUGE_MAX_BYTES: u64 = 32 << 20;
/// How much is looked at and asked for at once, in bytes; between two such steps other things can end the work.
const STEP: u64 = 32 << 20;
/// The longest that all of it may take; 0.2 s for each GiB were seen.
const LIMIT: Duration = Duration::from_secs(10);
/// The part of what a process takes that may be added to it.
const BUDGET: u64 = 100;
/// So many pieces that can't be put together are taken for a sign that none can.
const FAILURES_MAX: u32 = 64;

/// What a look at a process found.
struct Survey {
    /// The pieces that are put together.
    chosen: Vec<Piece>,
    /// What is left in small pages then, in bytes.
    small: u64,
}

/// Why huge pages are not put together again, with what would help.
#[derive(Debug, thiserror::Error)]
pub(super) enum Obstacle {
    /// The host's admin or its kernel has none.
    #[error(
        "huge pages are off on this host; `madvise` in {SETTINGS}/enabled makes the pauses of large guests shorter"
    )]
    Off,
    /// The guest's VMM wants none.
    #[error("the VMM has switched huge pages off for itself (PR_SET_THP_DISABLE)")]
    OffForVmm,
    /// The kernel does not know how.
    #[error("the host's kernel can't put huge pages together again; Linux 6.1 can")]
    TooOld,
    /// This process may not.
    #[error(
        "putting huge pages together again needs CAP_SYS_NICE and CAP_SYS_PTRACE, as root and the shipped unit have them"
    )]
    NotAllowed,
    /// It could not be looked at.
    #[error("can't look at the VMM's memory: {0}")]
    Unreadable(String),
}

impl Obstacle {
    /// What would help.
    pub fn remedy(&self) -> String {
        match self {
            Self::Off => format!("`madvise` in {SETTINGS}/enabled"),
            Self::OffForVmm => "a VMM that does not switch huge pages off".to_owned(),
            Self::TooOld => "Linux 6.1 or later".to_owned(),
            Self::NotAllowed => {
                "CAP_SYS_NICE and CAP_SYS_PTRACE, as root and the shipped unit have them".to_owned()
            }
            Self::Unreadable(_) => "a look at the VMM's memory, as root".to_owned(),
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rebuilt {
    /// How much was asked for and done, in bytes; some of it was huge before.
    bytes: u64,
    /// What could not be done.
    failed: u32,
    took: Duration,
}

impl fmt::Display for Rebuilt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bytes,
            failed,
            took,
        } = self;
        let ms = took.as_secs_f64() * 1e3;
        write!(out, "{} MiB are huge pages", bytes >> 20)?;
        if *failed > 0 {
            write!(out, ", {failed} pieces can't be")?;
        }
        write!(out, " ({ms:.1} ms)")
    }
}

/// A VMM whose memory may be looked at and put together.
#[derive(Debug)]
struct Target {
    process: process::Process,
    pidfd: OwnedFd,
    wanted: Wanted,
    /// The length of a huge page, in bytes.
    length: u64,
}

/// How much private memory of `process` would be in small pages after a [`rebuild`], in bytes, and why none can be done.
pub(super) fn foresee(process: &Process, watch: Watch) -> (u64, Option<Obstacle>) {
    let deadline = Deadline::after(LIMIT);
    let is_over = || deadline.has_passed() || watch.is_over();
    let seen = Target::open(process).and_then(|target| target.survey(process, &is_over));
    match seen {
        Ok(survey) => (survey.small, None),
        Err(obstacle) => {
            let rollup = process::Process::new(process.pid).and_then(|it| it.smaps_rollup());
            let all = rollup.map(|rollup| rollup.memory_map_rollup.0);
            let maps = all.iter().flatten();
            let small = maps.fold(0, |small: u64, map| {
                let bytes = |key: &str| map.extension.map.get(key).copied().unwrap_or(0);
                small.saturating_add(bytes("Anonymous").saturating_sub(bytes("AnonHugePages")))
            });
            (small, Some(obstacle))
        }
    }
}

/// Puts together what is worth it, until `watch` is over or it has taken too long.
///
/// # Errors
/// The obstacle.
pub(super) fn rebuild(process: &Process, watch: Watch) -> Result<Rebuilt, Obstacle> {
    let began = Instant::now();
    let deadline = Deadline::after(LIMIT);
    let is_over = || deadline.has_passed() || watch.is_over();
    let target = Target::open(process)?;
    let chosen = target.survey(process, &is_over)?.chosen;
    let mut rebuilt = Rebuilt {
        bytes: 0,
        failed: 0,
        took: Duration::ZERO,
    };
    for (start, length) in pieces::ranges(&chosen, target.length, STEP) {
        if is_over() || rebuilt.failed > FAILURES_MAX {
            break;
        }
        match target.collapse(start, length) {
            Ok(()) => rebuilt.bytes += length,
            // No huge page is to be had, or the VMM has ended: there is no use in more.
            Err(Errno::NOMEM | Errno::SRCH) => break,
            Err(_) => rebuilt.failed += 1,
        }
    }
    rebuilt.took = began.elapsed();
    Ok(rebuilt)
}

impl Target {
    fn open(process: &Process) -> Result<Self, Obstacle> {
        let read = |path: &str| fs::read_to_string(Path::new(SETTINGS).join(path)).ok();
        let length: u64 = read("hpage_pmd_size")
            .and_then(|text| text.trim().parse().ok())
            .filter(|length: &u64| length.is_power_of_two() && *length <= HUGE_MAX_BYTES)
            .ok_or(Obstacle::Off)?;
        let of_size = read(&format!("hugepages-{}kB/enabled", length >> 10));
        let wanted = policy::wanted(&read("enabled").unwrap_or_default(), of_size.as_deref());
        if wanted == Wanted::Never {
            return Err(Obstacle::Off);
        }
        let unreadable = |error: &dyn fmt::Display| Obstacle::Unreadable(error.to_string());
        let gone = || Obstacle::Unreadable("it has ended".to_owned());
        let pid = Pid::from_raw(process.pid).ok_or_else(gone)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| unreadable(&error))?;
        let of_kernel = process::Process::new(process.pid).map_err(|error| unreadable(&error))?;
        // Both are of the process that has the number now; if it is still that one, they are its own.
        let status = process.status().ok_or_else(gone)?;
        if status.thp_enabled == Some(false) {
            return Err(Obstacle::OffForVmm);
        }
        let target = Self {
            process: of_kernel,
            pidfd,
            wanted,
            length,
        };
        // Changes nothing, and says whether it could.
        match target.collapse(0, 0) {
            Ok(()) => Ok(target),
            Err(Errno::PERM | Errno::ACCESS) => Err(Obstacle::NotAllowed),
            Err(Errno::INVAL | Errno::NOSYS) => Err(Obstacle::TooOld),
            Err(error) => Err(unreadable(&error)),
        }
    }

    /// What is worth being put together, and what is left then.
    fn survey(&self, process: &Process, is_over: &dyn Fn() -> bool) -> Result<Survey, Obstacle> {
        let page = rustix::param::page_size();
        let bytes = |pages: usize| u64::try_from(pages.saturating_mul(page)).unwrap_or(u64::MAX);
        let mut pieces = Vec::new();
        let mut small: u64 = 0;
        for (map, may_be_shared) in self.mappings()? {
            small = small.saturating_add(mapping(&map).resident);
            pieces.extend(self.look(map.address, may_be_shared, is_over)?);
        }
        let taken = process.memory_bytes().unwrap_or(0);
        let budget = usize::try_from(taken / BUDGET).unwrap_or(usize::MAX) / page;
        let chosen = pieces::choose(pieces, budget);
        let own = chosen.iter().map(|piece| piece.own).sum();
        Ok(Survey {
            chosen,
            small: small.saturating_sub(bytes(own)),
        })
    }

    /// Where huge pages may be missing, and whether pages there may be shared with others.
    fn mappings(&self) -> Result<Vec<(MemoryMap, bool)>, Obstacle> {
        let unreadable = |error: &dyn fmt::Display| Obstacle::Unreadable(error.to_string());
        let smaps = self
            .process
            .open_relative("smaps")
            .map_err(|error| unreadable(&error))?;
        // What is cut off ends in half a line, and that is an error.
        let maps = MemoryMaps::from_buf_read(BufReader::new(smaps.take(SMAPS_MAX_BYTES)))
            .map_err(|error| unreadable(&error))?;
        Ok(maps
            .into_iter()
            .filter(|map| mapping(map).may_gain(self.wanted))
            .map(|map| {
                let may_be_shared = may_be_shared(&map);
                (map, may_be_shared)
            })
            .collect())
    }

    /// The pieces of a mapping that could be put together.
    fn look(
        &self,
        (start, end): (u64, u64),
        may_be_shared: bool,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Vec<Piece>, Obstacle> {
        let unreadable = |error: &dyn fmt::Display| Obstacle::Unreadable(error.to_string());
        let mut pagemap = self.process.pagemap().map_err(|error| unreadable(&error))?;
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(u64::MAX);
        let index = |address: u64| usize::try_from(address / page).unwrap_or(usize::MAX);
        let pages_of_piece = index(self.length);
        let mut pieces = Vec::new();
        let (mut at, end) = (start.next_multiple_of(self.length), end - end % self.length);
        while at < end && !is_over() {
            let until = end.min(at + STEP);
            let pages = pagemap
                .get_range_info(index(at)..index(until))
                .map_err(|error| unreadable(&error))?;
            for (number, pages) in (0_u64..).zip(pages.chunks(pages_of_piece)) {
                let pages = pages.iter().map(|page| page_of(page, may_be_shared));
                pieces.extend(Piece::of(at + number * self.length, pages));
            }
            at = until;
        }
        Ok(pieces)
    }

    fn collapse(&self, start: u64, length: u64) -> Result<(), Errno> {
        let number = |number| usize::try_from(number).map_err(|_| Errno::OVERFLOW);
        syscalls::collapse(&self.pidfd, number(start)?, number(length)?)
    }
}

fn mapping(map: &MemoryMap) -> Mapping {
    let bytes = |key: &str| map.extension.map.get(key).copied().unwrap_or(0);
    let flags = map.extension.vm_flags;
    Mapping {
        is_private: map.inode == 0
            && map
                .perms
                .contains(MMPermissions::READ | MMPermissions::WRITE | MMPermissions::PRIVATE),
        is_advised: flags.contains(VmFlags::HG),
        is_advised_against: flags.contains(VmFlags::NH),
        resident: bytes("Rss"),
        huge: bytes("AnonHugePages"),
    }
}

/// Whether KSM may have merged pages of the mapping; kernels that don't tell leave its wish for that.
fn may_be_shared(map: &MemoryMap) -> bool {
    match map.extension.map.get("KSM") {
        Some(bytes) => *bytes > 0,
        None => map.extension.vm_flags.contains(VmFlags::MG),
    }
}

/// What a page is, by its entry in `pagemap` (the kernel's admin-guide/mm/pagemap). A page that is there and is not
/// exclusive is the page of zeros, or one that others have as well.
fn page_of(info: &PageInfo, may_be_shared: bool) -> Page {
    let flags = match info {
        PageInfo::SwapPage(_) => return Page::Foreign,
        PageInfo::MemoryPage(flags) => flags,
    };
    if !flags.contains(MemoryPageFlags::PRESENT) {
        return Page::Empty;
    }
    let is_own =
        flags.contains(MemoryPageFlags::MMAP_EXCLUSIVE) && !flags.contains(MemoryPageFlags::FILE);
    match (is_own, may_be_shared) {
        (true, _) => Page::Own,
        (false, false) => Page::Empty,
        (false, true) => Page::Foreign,
    }
}

#[cfg(test)]
mod tests;
