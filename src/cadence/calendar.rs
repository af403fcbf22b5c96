//! Run times by a calendar: cron expressions by the clock of a time zone. croner finds the times of day; what happens when
//! the clock is put forward or back is here, and is what Debian's cron does (cron(8), "DAYLIGHT SAVING TIME"):
//!
//! - An expression whose minute and hour both begin with something else than `*` means times of day. One that the clock
//!   skips comes right after the gap; one that it shows twice comes once, the first time.
//! - Any other goes by real time: it runs whenever the clock shows what it says, and never in a gap.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use chrono::{DateTime, Days, LocalResult, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// No time zone puts its clock by more than this.
const MOST_SHIFT: TimeDelta = TimeDelta::hours(25);
/// A date that comes at all comes within this: 29 February on a certain weekday, over a century without a leap year.
const COMES_WITHIN: Days = Days::new(366 * 41);
/// Where the search for a date that never comes begins.
const EPOCH: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// Five fields of cron(5), by the clock of a time zone.
#[derive(Clone)]
pub struct Calendar {
    text: String,
    zone: Tz,
    /// Read when it is first needed: an idle minute looks at thousands of schedules that are not due.
    fields: OnceLock<Option<Fields>>,
}

#[derive(Clone)]
struct Fields {
    cron: Cron,
    /// Whether it means times of day.
    is_fixed: bool,
}

impl PartialEq for Calendar {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.zone) == (&other.text, other.zone)
    }
}

impl Eq for Calendar {}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Calendar({:?}, {})", self.text, self.zone)
    }
}

/// Why an expression is no calendar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCalendar {
    /// `@reboot` means no time.
    #[error(
        "means no time: a timer starts the runs, at boot as well, and what was missed is made up for then"
    )]
    Reboot,
    /// A name that stands for no expression.
    #[error("is not known; the names are @hourly, @daily, @weekly, @monthly and @yearly")]
    UnknownName,
    /// Another number of fields.
    #[error(
        "has {0} fields and must have five: minute, hour, day of month, month, day of week; there are no seconds"
    )]
    Fields(usize),
    /// One field.
    #[error(
        "has the field {0:?}, which must be * or numbers, ranges like 1-5 and lists of them, with steps like */10 or 8-18/2; months and days of the week have names too"
    )]
    Field(String),
    /// Something else, in the library's words.
    #[error("is no cron expression: {0}")]
    Cron(String),
    /// No such date comes.
    #[error("never comes: there is no such date")]
    Never,
}

impl Calendar {
    /// Reads `@daily` and its like, or five fields.
    ///
    /// # Errors
    /// When it is neither, or never comes.
    pub fn parse(text: &str, zone: Tz) -> Result<Self, InvalidCalendar> {
        let calendar = Self::unchecked(text, zone);
        let fields = Fields::parse(&calendar.text)?;
        // It is new, so that nobody has set it.
        let _ = calendar.fields.set(Some(fields));
        let limit = EPOCH.checked_add_days(COMES_WITHIN);
        match calendar.shown_after(EPOCH.naive_utc(), true) {
            Some(first) if limit.is_none_or(|limit| first < limit.naive_utc()) => Ok(calendar),
            Some(_) | None => Err(InvalidCalendar::Never),
        }
    }

    /// The same without looking at it. One that can't be read never comes.
    pub fn unchecked(text: &str, zone: Tz) -> Self {
        Self {
            text: text.split_whitespace().collect::<Vec<_>>().join(" "),
            zone,
            fields: OnceLock::new(),
        }
    }

    fn fields(&self) -> Option<&Fields> {
        let fields = self.fields.get_or_init(|| Fields::parse(&self.text).ok());
        fields.as_ref()
    }

    /// As it was written, with single blanks.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whose clock it goes by.
    pub const fn zone(&self) -> Tz {
        self.zone
    }

    /// The first time after `after`; the last one that there is, should none come before the calendar ends.
    pub fn next(&self, after: DateTime<Utc>) -> DateTime<Utc> {
        let next = match self.fields() {
            Some(fields) if fields.is_fixed => self.fixed_after(after),
            Some(_) => self.real_after(after),
            None => None,
        };
        next.filter(|next| *next > after)
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// The last time before `before`, or at it, to within an hour where the clock is put.
    fn previous(&self, before: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut shown = before.with_timezone(&self.zone).naive_local();
        loop {
            let found = self
                .fields()?
                .cron
                .find_previous_occurrence(&shown.and_utc(), true)
                .ok()?;
            let at = self.instant(found.naive_utc())?;
            if at <= before {
                return Some(at);
            }
            shown = found
                .naive_utc()
                .checked_sub_signed(TimeDelta::seconds(1))?;
        }
    }

    /// The time between the run at or before `run` and the one before that.
    pub fn gap_before(&self, run: DateTime<Utc>) -> Duration {
        let gap = self.previous(run).and_then(|last| {
            let earlier = self.previous(last - TimeDelta::seconds(1))?;
            (last - earlier).to_std().ok()
        });
        // Before the first one that there ever was, or where it never comes.
        gap.unwrap_or(Duration::MAX)
    }

    /// The first date and time of day after `after`, or at it, that the expression names, whether or not the clock shows it.
    fn shown_after(&self, after: NaiveDateTime, is_inclusive: bool) -> Option<NaiveDateTime> {
        // UTC knows no gaps: here it is any clock.
        let cron = &self.fields()?.cron;
        let found = cron.find_next_occurrence(&after.and_utc(), is_inclusive);
        Some(found.ok()?.naive_utc())
    }

    fn fixed_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let shown = after.with_timezone(&self.zone).naive_local();
        let mut candidate = self.shown_after(shown.checked_sub_signed(MOST_SHIFT)?, true)?;
        loop {
            // Later times of day never come earlier.
            let at = self.instant(candidate)?;
            if at > after {
                return Some(at);
            }
            candidate = self.shown_after(candidate, false)?;
        }
    }

    /// When the clock shows `shown` for the first time, or the end of the gap that skips it.
    fn instant(&self, shown: NaiveDateTime) -> Option<DateTime<Utc>> {
        match self.zone.from_local_datetime(&shown) {
            LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => Some(at.to_utc()),
            LocalResult::None => {
                let before = self
                    .zone
                    .from_utc_datetime(&shown.checked_sub_signed(MOST_SHIFT)?);
                self.change_after(before.to_utc(), shown.and_utc() + MOST_SHIFT, shown)
            }
        }
    }

    /// The end of the gap around `shown`, which lies between the two moments.
    fn change_after(
        &self,
        mut low: DateTime<Utc>,
        mut high: DateTime<Utc>,
        shown: NaiveDateTime,
    ) -> Option<DateTime<Utc>> {
        // Before the gap the clock shows less than what is skipped, behind it more; gaps begin at whole seconds.
        let is_behind = |at: DateTime<Utc>| at.with_timezone(&self.zone).naive_local() > shown;
        while high - low > TimeDelta::seconds(1) {
            let middle = low + (high - low) / 2;
            let middle = DateTime::from_timestamp(middle.timestamp(), 0)?;
            if middle <= low {
                break;
            }
            if is_behind(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        Some(high)
    }

    fn real_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut from = after;
        let mut is_inclusive = false;
        loop {
            let offset = from.with_timezone(&self.zone).offset().fix();
            let shown = from.with_timezone(&self.zone).naive_local();
            let candidate = self.shown_after(shown, is_inclusive)?;
            let at = offset.from_local_datetime(&candidate).single()?.to_utc();
            // As long as the clock is not put meanwhile, it shows that then.
            match self.first_change(from, at, offset) {
                None => return Some(at),
                Some(change) => {
                    from = change;
                    is_inclusive = true;
                }
            }
        }
    }

    /// The first moment in (`from`, `to`] at which the clock differs from UTC by something else than `offset`. Two changes
    /// that undo each other within a day are not seen; no zone has them.
    fn first_change(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        offset: chrono::FixedOffset,
    ) -> Option<DateTime<Utc>> {
        let is_same = |at: DateTime<Utc>| at.with_timezone(&self.zone).offset().fix() == offset;
        let mut low = from;
        // A rare date may lie years ahead.
        let mut high = loop {
            let step = (low + TimeDelta::days(1)).min(to);
            if !is_same(step) {
                break step;
            }
            if step >= to {
                return None;
            }
            low = step;
        };
        while high - low > TimeDelta::seconds(1) {
            let middle = DateTime::from_timestamp((low + (high - low) / 2).timestamp(), 0)?;
            if middle <= low {
                break;
            }
            if is_same(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        Some(DateTime::from_timestamp(high.timestamp(), 0).unwrap_or(high))
    }
}

impl Fields {
    fn parse(text: &str) -> Result<Self, InvalidCalendar> {
        let fields = match text.to_ascii_lowercase().as_str() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@reboot" => return Err(InvalidCalendar::Reboot),
            name if name.starts_with('@') => return Err(InvalidCalendar::UnknownName),
            _ => text,
        }
        .to_owned();
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minute, hour, day, _, weekday] = parts.as_slice() else {
            return Err(InvalidCalendar::Fields(parts.len()));
        };
        for (at, part) in parts.iter().enumerate() {
            if !part.split(',').all(|item| is_item(item, at >= 3)) {
                return Err(InvalidCalendar::Field((*part).to_owned()));
            }
        }
        let is_star = |field: &str| field.starts_with('*');
        let cron = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            // Both count where one is open, as in Vixie's cron; else either.
            .dom_and_dow(is_star(day) || is_star(weekday))
            .build()
            .parse(&fields)
            .map_err(|error| InvalidCalendar::Cron(error.to_string()))?;
        Ok(Self {
            is_fixed: !is_star(minute) && !is_star(hour),
            cron,
        })
    }
}

/// Whether this is one item of a list in a field: `*`, a number, a range, and a step behind `*` or a range.
fn is_item(item: &str, may_be_named: bool) -> bool {
    let is_value = |text: &str| {
        let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let is_name =
            may_be_named && text.len() == 3 && text.bytes().all(|b| b.is_ascii_alphabetic());
        is_number || is_name
    };
    let (base, step) = match item.split_once('/') {
        Some((base, step)) => (base, Some(step)),
        None => (item, None),
    };
    let is_range = base == "*"
        || base
            .split_once('-')
            .is_some_and(|(first, last)| is_value(first) && is_value(last));
    match step {
        None => is_range || is_value(base),
        Some(step) => {
            is_range && (1..=2).contains(&step.len()) && step.bytes().all(|b| b.is_ascii_digit())
        }
    }
}

#[cfg(test)]
mod tests;
