//! A domain of a real libvirtd in a throw-away copy of this machine, snapshotted by a monitor socket of its own: what
//! hypeman-snap-libvirt(7) says, with its examples as they are printed.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};

use support::manual::examples;
use support::skip::skipped;
use support::throwaway::{Throwaway, text};

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");
const DOMAIN: &str = r#"<domain type='qemu'>
  <name>web-1</name>
  <uuid>6cf54ec1-7762-4348-86e2-649831a8e0ba</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>/var/lib/libvirt/images/counter.elf</kernel>
  </os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/var/lib/libvirt/images/web-1.raw'/>
      <target dev='hda' bus='ide'/>
    </disk>
    <serial type='file'>
      <source path='/var/log/libvirt/qemu/serial' append='on'/>
    </serial>
    <memballoon model='none'/>
  </devices>
</domain>
"#;

/// libvirtd as its packages set it up, from where `contrib/test.sh` unpacked them; nothing is installed on this machine.
const LIBVIRTD: &str = r#"
# Without the wrapper of the unpacked QEMU: where /bin is /usr/bin, it would replace the program that it starts.
onto_root() { tar --directory="$1" --exclude=./bin --create . | tar --directory=/ --extract --keep-directory-symlink; }
[ -x /usr/sbin/libvirtd ] || onto_root "$PROJECT/target/unpacked/libvirt"
[ -x /usr/bin/qemu-system-x86_64 ] || onto_root "$PROJECT/target/qemu"
ldconfig
getent group kvm >/dev/null || groupadd --system kvm
for group in libvirt libvirt-qemu; do getent group $group >/dev/null || groupadd --system $group; done
getent passwd libvirt-qemu >/dev/null ||
  useradd --system --gid kvm --groups libvirt-qemu --home-dir /var/lib/libvirt --shell /usr/sbin/nologin libvirt-qemu
mkdir -p /var/lib/libvirt/images /var/lib/libvirt/qemu /var/log/libvirt/qemu /run/libvirt /var/lib/hypeman
chown -R libvirt-qemu:libvirt-qemu /var/lib/libvirt/qemu
chmod 0750 /var/lib/libvirt/qemu
install "$SHARED/hypeman-snap" /usr/local/bin/
cp "$SHARED/counter.elf" /var/lib/libvirt/images/
truncate --size=8M /var/lib/libvirt/images/web-1.raw
export LIBVIRT_DEFAULT_URI=qemu:///system
/usr/sbin/virtlogd --daemon
/usr/sbin/libvirtd --daemon
# eventually COMMAND…
eventually() {
  for _ in $(seq 600); do
    ! "$@" >/dev/null 2>&1 || return 0
    sleep 0.1
  done
  echo "did not happen: $*" >&2
  cat /var/log/libvirt/qemu/web-1.log >&2
  return 1
}
eventually virsh version

serial=/var/log/libvirt/qemu/serial
last() { sed -n 's/^tick \([0-9]*\).*/\1/p' $serial | tail --lines=1; }
is_beyond() { [ "$(last)" -gt "$1" ]; }
is_counting() { eventually is_beyond "$(last)"; }
state() { virsh domstate --reason web-1 | sed -n 1p; }
newest() { ls -t /var/lib/hypeman/snapshots | sed -n 1p; }
# example NAME: what the page prints, of the newest snapshot.
example() {
  sed "s/SNAPSHOT/$(newest)/" "$SHARED/$1" >/run/example
  (cd / && bash -euo pipefail /run/example)
}
"#;

/// What happens to the domain; `$SHARED` has the examples.
const DAYS: &str = r#"
# Without a monitor of its own, it is said what to add; that is what the page says.
virsh define "$SHARED/plain.xml" >&2
! hypeman-snap register --libvirt web-1 2>/run/said
grep --fixed-strings --quiet --file="$SHARED/addition" /run/said
virsh start web-1 >&2
virsh define "$SHARED/domain.xml" >&2
! hypeman-snap register --libvirt web-1 2>/run/said
grep -q 'from its next start on' /run/said
! hypeman-snap register --libvirt no-such 2>/run/said
grep -q "virsh domid --domain no-such: .*no-such" /run/said
virsh destroy web-1 >&2
virsh start web-1
eventually is_beyond 0
grep -q 'tainted: custom-argv' /var/log/libvirt/qemu/web-1.log
stdbuf --output=L virsh event --domain web-1 --event lifecycle --loop >/run/events &
eventually test -e /run/events

example register >&2
grep -c state_dir /var/lib/hypeman/snapshots/*/guest/hypeman-snap.json
state
eventually grep Resumed /run/events
example suspend
is_counting
cat /run/events

# A copy of it lives beside it, with what libvirt gave its QEMU and hands to nobody else.
hypeman-snap rehearse web-1 --timeout 1m --expect '^tick [0-9]' | sed 's/.*: //'
[ ! -e /var/lib/hypeman/rehearsals ]
is_counting

# With memory: the guest goes on from where the snapshot was taken, behind where it is now.
example dumpxml
saved=$(od --address-radix=n --format=u8 --skip-bytes=1M --read-bytes=8 "/var/lib/hypeman/snapshots/$(newest)/guest/disks/0-web-1.raw")
eventually is_beyond $((saved + 100))
example memory >&2
# Of all that it printed after its latest step back, the first.
first() { sed -n 's/^tick \([0-9]*\).*/\1/p' $serial | awk '$1 < last { first = $1 } { last = $1 } END { print first }'; }
went_back() { [ -n "$(first)" ]; }
eventually went_back
echo "$(($(first) - saved <= 40 && $(first) > saved)) $(state)"
is_counting
[ "$(grep -c TORN $serial)" = 0 ]

# Its disks alone, and the definition is as it was.
example disks >&2
state
is_counting
! virsh dumpxml web-1 | grep -q incoming

# Saved, going on, and off.
for step in managedsave start destroy; do
  virsh $step web-1 >&2
  sleep 1.1
  hypeman-snap run-due --force -o json | sed -n 's/^ *"kind": "\(.*\)".*/\1/p'
done
virsh start web-1 >&2
eventually is_counting

# libvirt's own snapshot beside ours: the disk is another file now.
virsh snapshot-create-as web-1 s1 --disk-only --atomic >&2
sleep 1.1
hypeman-snap run-due --force >&2
source_of_newest() { sed -n 's/^ *"source": "\(.*\)".*/\1/p' "/var/lib/hypeman/snapshots/$(newest)/guest/hypeman-snap.json"; }
source_of_newest

# And its way back from that: the disk is the first file again.
virsh blockcommit web-1 hda --active --pivot --wait >&2
is_counting
sleep 1.1
hypeman-snap run-due --force >&2
source_of_newest
"#;

fn has_libvirtd() -> bool {
    let unpacked = Path::new(PROJECT).join("target/unpacked/libvirt");
    [PathBuf::from("/"), unpacked]
        .iter()
        .any(|root| root.join("usr/sbin/libvirtd").exists())
}

/// The domain with what the page adds to it.
fn domain(addition: &[String]) -> String {
    let (head, tail) = (&addition[0], &addition[2..]);
    assert_eq!(addition[1].trim(), "...");
    DOMAIN
        .replace("<domain type='qemu'>", &head.replace("'kvm'", "'qemu'"))
        .replace("</domain>", &tail.join("\n"))
}

#[test]
fn libvirt_domain_is_snapshotted_and_comes_back_as_the_page_says() {
    if !has_libvirtd() {
        skipped("libvirt: no libvirtd; ./contrib/test.sh unpacks Debian's into target/unpacked");
        return;
    }
    let machine = Throwaway::create();
    machine.share(Path::new(TOOL), "hypeman-snap");
    let built = std::process::Command::new(Path::new(PROJECT).join("tests/support/guest/build.sh"))
        .arg(machine.shared().join("counter.elf"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", text(&built));

    let page = fs::read_to_string(Path::new(PROJECT).join("man/hypeman-snap-libvirt.7")).unwrap();
    let mut examples = examples(&page)
        .into_iter()
        .filter(|example| example.needs.as_deref() == Some("libvirt"));
    let write = |name: &str, text: &str| fs::write(machine.shared().join(name), text).unwrap();
    let addition = examples.next().unwrap().shown;
    write("plain.xml", DOMAIN);
    write("domain.xml", &domain(&addition));
    let inner: String = addition[2..addition.len() - 1]
        .iter()
        .map(|line| line.trim())
        .collect();
    write("addition", &inner);
    for name in ["register", "suspend", "dumpxml", "disks", "memory"] {
        let script = examples.next().unwrap().script;
        // How it is in between.
        let script = script.replace(
            "virsh resume web-1\n",
            "virsh domstate --reason web-1\nvirsh resume web-1\n",
        );
        write(name, &script);
    }
    assert!(examples.next().is_none());

    let Some(output) = machine.run(&format!("{LIBVIRTD}{DAYS}")) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stdout);
    let said: Vec<&str> = said
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("Domain 'web-1'"))
        .collect();
    let event = |what| format!("event 'lifecycle' for domain 'web-1': {what}");
    let (suspended, resumed) = (event("Suspended Paused"), event("Resumed Unpaused"));
    assert_eq!(
        said,
        [
            // A snapshot with memory.
            "1",
            "running (unpaused)",
            // The one that the admin paused stays so.
            "exit code 1",
            "paused (user)",
            // Our pause and the admin's.
            &suspended,
            &resumed,
            &suspended,
            &resumed,
            // Back with memory, back by its disks.
            "alive",
            "1 running (unpaused)",
            "running (booted)",
            "Stopped",
            "Standby",
            "Stopped",
            "/var/lib/libvirt/images/web-1.s1",
            "/var/lib/libvirt/images/web-1.raw",
        ],
        "{}",
        text(&output)
    );
}
