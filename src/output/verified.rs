//! `verify`: one line for each snapshot, and what is wrong with it.

use super::View;
use super::lines;
use super::text::visible;
use crate::report::VerifiedRow;
use crate::snapshot::Verified;

pub fn text(rows: &[VerifiedRow], view: &View) -> String {
    let mut text = String::new();
    let mut counts = [0_usize; 3];
    for row in rows {
        let snapshot = &row.snapshot;
        let name = lines::snapshot(&snapshot.name, &snapshot.id);
        let instance = visible(&snapshot.source_instance_name);
        let (count, is_good, said): (usize, bool, String) = match &row.verified {
            Ok(Verified::Sound {
                is_read: true,
                first_read: 0,
            }) => (0, true, "verified: every byte is what it was".to_owned()),
            Ok(Verified::Sound {
                is_read: true,
                first_read,
            }) => (
                0,
                true,
                format!(
                    "verified; {} read for the first time, and can be compared from now on",
                    if *first_read == 1 {
                        "1 file was".to_owned()
                    } else {
                        format!("{first_read} files were")
                    }
                ),
            ),
            Ok(Verified::Sound { is_read: false, .. }) => (0, true, "looks whole".to_owned()),
            Ok(Verified::Gone) => (0, true, "was deleted meanwhile".to_owned()),
            Ok(Verified::Damaged(found)) => (1, false, format!("damaged: {}", found.join("; "))),
            Ok(Verified::Unknown(found)) => {
                (2, false, format!("not verified: {}", found.join("; ")))
            }
            Err(error) => (2, false, format!("not verified: {error}")),
        };
        if let Some(counted) = counts.get_mut(count) {
            *counted += 1;
        }
        if !is_good || !view.is_quiet {
            text.push_str(&format!("{instance}: {name}: {}\n", visible(&said)));
        }
    }
    let [good, damaged, unknown] = counts;
    if rows.is_empty() {
        text.push_str("there is no snapshot\n");
    } else if rows.len() > 1 && !view.is_quiet {
        text.push_str(&format!(
            "{good} good, {damaged} damaged, {unknown} not verified\n"
        ));
    }
    text
}
