//! `rehearse`: one line for each snapshot, and what befell its guest.

use super::View;
use super::lines;
use super::text::visible;
use crate::report::RehearsedRow;
use crate::snapshot::Rehearsed;

pub fn text(rows: &[RehearsedRow], view: &View) -> String {
    let mut text = String::new();
    let mut counts = [0_usize; 3];
    for row in rows {
        let snapshot = &row.snapshot;
        let name = lines::snapshot(&snapshot.name, &snapshot.id);
        let instance = visible(&snapshot.source_instance_name);
        let (count, said): (usize, String) = match &row.rehearsed {
            Ok(Rehearsed::Alive) => (0, "alive".to_owned()),
            Ok(Rehearsed::Dead(why)) => (1, format!("dead: {why}")),
            Ok(Rehearsed::Impossible(why)) | Err(why) => (2, format!("not rehearsed: {why}")),
        };
        if let Some(counted) = counts.get_mut(count) {
            *counted += 1;
        }
        if count > 0 || !view.is_quiet {
            text.push_str(&format!("{instance}: {name}: {}\n", visible(&said)));
        }
    }
    let [alive, dead, others] = counts;
    if rows.is_empty() && !view.is_quiet {
        text.push_str("nothing is to be rehearsed\n");
    } else if rows.len() > 1 && !view.is_quiet {
        text.push_str(&format!(
            "{alive} alive, {dead} dead, {others} not rehearsed\n"
        ));
    }
    text
}
