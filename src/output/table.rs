//! Tables; the only user of tabled.

use tabled::builder::Builder;
use tabled::settings::object::{Cell, Rows};
use tabled::settings::{Color, Padding, Style};

use super::View;
use super::text::{Tint, shortened, visible};
use super::{declaration, units};
use crate::finding::{Finding, Status};
use crate::monitoring::health::Newest;
use crate::report::{Keeping, ScheduleRow, SnapshotRow};
use crate::schedule::Schedule;
use crate::snapshot::Consistency;

/// Longest message in a table on a terminal, in characters; `get` shows it whole.
const MESSAGE_MAX_CHARS: usize = 60;
/// What the last column keeps where a terminal is narrow, in characters.
const LAST_MIN_CHARS: usize = 40;

/// `list`.
pub fn schedules(rows: &[ScheduleRow], view: &View) -> String {
    let header = [
        "INSTANCE", "NAME", "INTERVAL", "KEEPS", "NEXT RUN", "NEWEST", "FAILURES", "LAST RUN",
    ];
    let mut table = Table::new(header);
    // Failures are told by the last run, and the name tells the instance where there is one.
    table.dispensable = if rows.iter().all(|row| row.name.is_some()) {
        &[6, 0, 3, 2, 5]
    } else {
        &[6, 1, 3, 2, 5]
    };
    for row in rows {
        let name = row.name.as_deref().unwrap_or("-");
        match &row.schedule {
            Ok(schedule) => table.push(
                [
                    visible(&row.instance_id),
                    visible(name),
                    declaration::when(&schedule.declaration),
                    declaration::retention(&schedule.declaration.retention),
                    units::time(schedule.times().wanted_at(), view),
                    newest(row.newest, view),
                    schedule.record.consecutive_failures.to_string(),
                    match &row.flaw {
                        Some(flaw) => message("newest snapshot is unusable", flaw, view),
                        None => last_run(schedule, view),
                    },
                ],
                row.flaw
                    .as_ref()
                    .map_or_else(|| tint(schedule), |_| Some(Tint::Failure)),
            ),
            Err(error) => table.push(
                [
                    visible(&row.instance_id),
                    visible(name),
                    "-".to_owned(),
                    "-".to_owned(),
                    "-".to_owned(),
                    newest(row.newest, view),
                    "-".to_owned(),
                    message("unreadable", error, view),
                ],
                Some(Tint::Failure),
            ),
        }
    }
    table.render(view)
}

/// `snapshots`.
pub fn snapshots(rows: &[SnapshotRow], view: &View) -> String {
    let age = if view.is_terminal { "AGE" } else { "CREATED" };
    let header = [
        "ID", "NAME", "KIND", "INSTANCE", age, "ON DISK", "MADE", "STAYS",
    ];
    if rows.iter().any(|row| row.occupied.is_some()) {
        return in_full(rows, header, view);
    }
    let mut table = Table::new(header);
    let source = |row: &SnapshotRow| row.snapshot.source_instance_id.clone();
    let first = rows.first().map(source);
    table.dispensable = if rows.iter().all(|row| Some(source(row)) == first) {
        &[6, 3, 0, 2, 5]
    } else {
        &[6, 0, 2, 5]
    };
    for row in rows {
        table.push(cells(row, view), tint_of(row));
    }
    table.render(view)
}

/// With what of their files is whose.
fn in_full(rows: &[SnapshotRow], header: [&str; 8], view: &View) -> String {
    let [id, name, kind, instance, age, on_disk, made, stays] = header;
    let mut table = Table::new([
        id,
        name,
        kind,
        instance,
        age,
        "LENGTH",
        on_disk,
        "SHARED",
        "COMPRESSED",
        made,
        stays,
    ]);
    for row in rows {
        let [id, name, kind, instance, age, on_disk, made, stays] = cells(row, view);
        let occupied = row.occupied.unwrap_or_default();
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), units::size);
        let compressed = match (occupied.compressed_bytes, occupied.uncompressed_bytes) {
            (Some(to), Some(from)) => format!("{} of {}", units::size(to), units::size(from)),
            (to, _) => size(to),
        };
        let length = units::size(row.snapshot.size_bytes);
        let shared = size(occupied.shared_bytes);
        let cells = [
            id, name, kind, instance, age, length, on_disk, shared, compressed, made, stays,
        ];
        table.push(cells, tint_of(row));
    }
    table.render(view)
}

fn tint_of(row: &SnapshotRow) -> Option<Tint> {
    if row.snapshot.is_usable() {
        is_going(&row.keeping).then_some(Tint::Notice)
    } else {
        Some(Tint::Failure)
    }
}

fn cells(row: &SnapshotRow, view: &View) -> [String; 8] {
    let snapshot = &row.snapshot;
    let instance = if snapshot.source_instance_name.is_empty() {
        &snapshot.source_instance_id
    } else {
        &snapshot.source_instance_name
    };
    let made = if snapshot.is_scheduled() {
        "scheduled"
    } else {
        "manually"
    };
    [
        snapshot.id.to_string(),
        visible(if snapshot.name.is_empty() {
            "-"
        } else {
            &snapshot.name
        }),
        match snapshot.consistency {
            Consistency::Crash => {
                format!("{} ({})", snapshot.kind, Consistency::Crash.as_str())
            }
            Consistency::Memory | Consistency::Stopped => snapshot.kind.to_string(),
        },
        visible(instance),
        units::age_or_time(snapshot.created_at, view),
        snapshot
            .disk_bytes
            .map_or_else(|| "?".to_owned(), units::size),
        made.to_owned(),
        why(row, view),
    ]
}

/// `plan`: what happens in each period.
pub fn plan(periods: Vec<[String; 4]>, view: &View) -> String {
    let mut table = Table::new(["PERIOD", "RUNS", "REMOVED", "STAY"]);
    for period in periods {
        table.push(period, None);
    }
    table.render(view)
}

/// `doctor`. Nothing is cut short: what is wrong and what helps is why somebody asks.
pub fn findings(findings: &[Finding], view: &View) -> String {
    let mut table = Table::new(["STATUS", "CHECK", "SUBJECT", "DETAIL"]);
    for finding in findings {
        if view.is_quiet && finding.status == Status::Ok {
            continue;
        }
        let mut detail = visible(&finding.detail);
        if let Some(remedy) = &finding.remedy {
            detail.push_str(" → ");
            detail.push_str(&visible(remedy));
        }
        table.push(
            [
                finding.status.as_str().to_owned(),
                finding.check.to_owned(),
                visible(&finding.subject),
                detail,
            ],
            match finding.status {
                Status::Ok => None,
                Status::Warning => Some(Tint::Notice),
                Status::Broken => Some(Tint::Failure),
            },
        );
    }
    if view.is_quiet && table.rows.len() == 1 {
        return String::new();
    }
    table.render(view)
}

fn newest(newest: Newest, view: &View) -> String {
    match newest {
        Newest::Unknown => "?".to_owned(),
        Newest::None => "none".to_owned(),
        Newest::At(at) if view.is_terminal => format!("{} old", units::age(at, view.now)),
        Newest::At(at) => units::time(at, view),
    }
}

/// The colour of the newest run.
fn tint(schedule: &Schedule) -> Option<Tint> {
    if schedule.record.run_error().is_some() || schedule.record.retention_error.is_some() {
        Some(Tint::Failure)
    } else if schedule.record.missing_since.is_some() || schedule.record.attempt.is_some() {
        Some(Tint::Notice)
    } else {
        None
    }
}

fn is_going(keeping: &Keeping) -> bool {
    matches!(keeping, Keeping::Judged(decision) if !decision.keeps())
}

/// How the newest run went.
fn last_run(schedule: &Schedule, view: &View) -> String {
    let at = schedule
        .record
        .last_run_at
        .map_or_else(String::new, |at| format!(" {}", units::time(at, view)));
    if let Some(error) = schedule.record.run_error() {
        message(&format!("failed{at}"), error, view)
    } else if let Some(error) = &schedule.record.retention_error {
        message(&format!("retention failed{at}"), error, view)
    } else if let Some(since) = schedule.record.missing_since {
        format!("instance is gone since {}", units::time(since, view))
    } else if let Some(attempt) = &schedule.record.attempt {
        format!(
            "unfinished, began {}",
            units::time(attempt.started_at, view)
        )
    } else if schedule.record.last_run_at.is_some() {
        format!("ok{at}")
    } else {
        "never".to_owned()
    }
}

fn message(what: &str, message: &str, view: &View) -> String {
    let message = visible(message);
    if view.is_terminal {
        format!("{what}: {}", shortened(&message, MESSAGE_MAX_CHARS))
    } else {
        format!("{what}: {message}")
    }
}

/// Why a snapshot stays or goes, and what else is to be said of it.
fn why(row: &SnapshotRow, view: &View) -> String {
    let mut why = stays(&row.keeping, view);
    if let Some(protection) = &row.protection {
        // What was judged says so itself.
        if !matches!(row.keeping, Keeping::Judged(_)) {
            why.push_str(", protected");
            if let Some(until) = protection.until {
                why.push_str(&format!(" until {}", units::time(until, view)));
            }
        }
        if let Some(reason) = &protection.reason {
            why.push_str(&format!(" ({})", visible(reason)));
        }
    }
    if let Some(rehearsal) = &row.snapshot.rehearsed {
        let at = units::age_or_time(rehearsal.at, view);
        let outcome = if rehearsal.dead.is_none() {
            "alive"
        } else {
            "dead"
        };
        why.push_str(&format!("; rehearsed: {outcome} ({at})"));
    }
    if let Some(flaw) = &row.snapshot.unusable {
        why.push_str(&format!("; unusable: {}", visible(flaw)));
    }
    why
}

fn stays(keeping: &Keeping, view: &View) -> String {
    match keeping {
        Keeping::Manual => "kept: manual".to_owned(),
        Keeping::Unscheduled => "kept: no schedule".to_owned(),
        Keeping::Unreadable => "kept: its schedule can't be read".to_owned(),
        Keeping::Judged(decision) => {
            let word = if decision.keeps() { "kept" } else { "goes" };
            let time = |at| units::time(at, view);
            if view.is_verbose {
                let all: Vec<String> = decision
                    .reasons()
                    .iter()
                    .map(|reason| reason.words(time))
                    .collect();
                return format!("{word}: {}", all.join(", "));
            }
            format!("{word}: {}", decision.words(time))
        }
    }
}

/// A table without lines: columns are two blanks apart and nothing stands behind the last one, so that the output is
/// easy to cut and to compare. On a terminal a row is one line: columns that don't fit are left out.
struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
    /// The rows whose last cell has a colour.
    tinted: Vec<(usize, Tint)>,
    /// The columns that may be left out, the least important first.
    dispensable: &'static [usize],
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    fn new(header: [&str; COLUMNS]) -> Self {
        Self {
            rows: vec![header.map(str::to_owned)],
            tinted: Vec::new(),
            dispensable: &[],
        }
    }

    fn push(&mut self, cells: [String; COLUMNS], tint: Option<Tint>) {
        self.tinted.extend(tint.map(|tint| (self.rows.len(), tint)));
        self.rows.push(cells);
    }

    /// The columns that are shown, and how many characters the last one of them may have.
    fn fitted(&self, view: &View) -> (Vec<usize>, usize) {
        let mut shown: Vec<usize> = (0..COLUMNS).collect();
        let Some(width) = view.width else {
            return (shown, usize::MAX);
        };
        let widest = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or_default()
        };
        let room_for_last = |shown: &[usize]| {
            let others = shown.iter().filter(|column| **column + 1 < COLUMNS);
            let others: usize = others.map(|column| widest(*column) + 2).sum();
            width.saturating_sub(others)
        };
        let last = widest(COLUMNS - 1);
        for column in self.dispensable {
            if room_for_last(&shown) >= last.min(LAST_MIN_CHARS) {
                break;
            }
            shown.retain(|it| it != column);
        }
        let room = if self.dispensable.is_empty() {
            usize::MAX
        } else {
            room_for_last(&shown).max(LAST_MIN_CHARS)
        };
        (shown, room)
    }

    fn render(self, view: &View) -> String {
        let (shown, room) = self.fitted(view);
        let mut builder = Builder::default();
        for row in &self.rows {
            builder.push_record(shown.iter().map(|&column| {
                if column + 1 == COLUMNS {
                    shortened(&row[column], room)
                } else {
                    row[column].clone()
                }
            }));
        }
        let mut table = builder.build();
        table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
        if view.has_colours {
            table.modify(Rows::first(), Color::BOLD);
            for (row, tint) in self.tinted {
                let color = match tint {
                    Tint::Failure => Color::FG_RED,
                    Tint::Notice => Color::FG_YELLOW,
                };
                table.modify(Cell::new(row, shown.len() - 1), color);
            }
        }
        let mut text = String::new();
        for line in table.to_string().lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}
