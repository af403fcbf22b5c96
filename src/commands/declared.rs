//! The declaration that was typed, with what of it the host knows.

use crate::cli::DeclarationArgs;
use crate::schedule::validate::Input;

/// What was typed, and the host's time zone.
pub fn input(args: &DeclarationArgs) -> Input {
    Input {
        calendar: args.calendar.clone(),
        jitter: args.jitter.clone(),
        interval: args.interval.clone(),
        max_pause: args.max_pause.clone(),
        expect: args.expect.clone(),
        max_count: args.max_count,
        max_age: args.max_age.clone(),
        keep_last: args.keep_last,
        keep_hourly: args.keep_hourly,
        keep_daily: args.keep_daily,
        keep_weekly: args.keep_weekly,
        keep_monthly: args.keep_monthly,
        keep_yearly: args.keep_yearly,
        keep_within: args.keep_within.clone(),
        min_keep: args.min_keep,
        timezone: args.timezone.clone(),
        host_timezone: iana_time_zone::get_timezone().ok(),
        name_prefix: args.name_prefix.clone(),
        metadata: args.metadata.clone(),
        no_memory: args.no_memory,
        method: args.method.clone(),
        compress: args.compress.clone(),
        min_free: args.min_free.clone(),
        pre_hook: args.pre_hook.clone(),
        post_hook: args.post_hook.clone(),
        failure_hook: args.failure_hook.clone(),
        hook_timeout: args.hook_timeout.clone(),
    }
}
