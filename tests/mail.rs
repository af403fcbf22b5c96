//! `contrib/hooks/mail` under the confined service, which no mail program can work in, and without systemd: Debian's dma
//! delivers what it writes to root's mailbox.

#![cfg(test)]

use std::path::Path;

use support::skip::skipped;
use support::throwaway::{Throwaway, text};

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

/// Tool and units, dma as its package sets it up, and a VM that is off.
const INSTALL: &str = r#"
tar --directory="$PROJECT/target/unpacked/dma" --create . | tar --directory=/ --extract --keep-directory-symlink
ldconfig
ln --symbolic --force dma /usr/sbin/sendmail
chgrp mail /usr/sbin/dma /usr/lib/dma/dma-mbox-create /var/spool/dma
chmod 2755 /usr/sbin/dma
chmod 4754 /usr/lib/dma/dma-mbox-create
chmod 2775 /var/spool/dma
: >/etc/dma/dma.conf
rm -f /var/mail/root
install -m 0755 "$SHARED/hypeman-snap" /usr/local/bin/hypeman-snap
install -D -m 0755 --target-directory=/usr/libexec/hypeman-snap/hooks "$PROJECT"/contrib/hooks/*
install -m 0644 "$PROJECT"/contrib/systemd/hypeman-snap.* /etc/systemd/system/
rm -rf /etc/default/hypeman-snap /var/lib/hypeman /var/lib/hypeman-snap
systemctl daemon-reload
mkdir /var/lib/hypeman
truncate --size=1M /srv/db.raw
hypeman-snap register db --hypervisor qemu --socket /run/db.sock --disk /srv/db.raw >&2
make_due() {
  sed --in-place 's/"\(next_run\|retry\)_at": "[^"]*"/"\1_at": "2026-01-01T00:00:00Z"/' /var/lib/hypeman-snap/snapshot-schedules/*
}
# received N: root has got N mails.
received() {
  for _ in $(seq 300); do
    [ "$(grep --count '^Subject: ' /var/mail/root 2>/dev/null)" != "$1" ] || return 0
    sleep 0.1
  done
  journalctl --unit='run-*' >&2
  return 1
}
"#;

#[test]
fn failure_is_mailed_from_the_confined_service_and_from_cron() {
    let dma = Path::new(PROJECT).join("target/unpacked/dma/usr/sbin/dma");
    if !dma.exists() {
        skipped("mail from a hook: ./contrib/test.sh unpacks Debian's dma into target/unpacked");
        return;
    }
    let machine = Throwaway::create();
    machine.share(Path::new(TOOL), "hypeman-snap");
    let Some(output) = machine.boot(&format!(
        r#"{INSTALL}
        hypeman-snap set db --interval 1h --max-count 3 --pre-hook /bin/false \
          --failure-hook '/usr/libexec/hypeman-snap/hooks/mail root daemon' >&2
        make_due
        ! systemctl start hypeman-snap.service
        received 1
        # The hook itself had nothing to complain of.
        ! journalctl --unit=hypeman-snap.service --output=cat | grep failure-hook
        # As cron starts it.
        make_due
        ! env --ignore-environment PATH=/usr/bin:/bin:/usr/local/bin hypeman-snap --quiet run-due
        received 2
        cat /var/mail/root
        "#
    )) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    let mail = String::from_utf8_lossy(&output.stdout);
    for words in ["To: root,daemon\n", ": db failed\n", "Instance: db (db)\n"] {
        assert_eq!(mail.matches(words).count(), 2, "{words:?} in {mail}");
    }
    assert!(
        mail.contains("Error:    the pre-hook /bin/false failed"),
        "{mail}"
    );
}
