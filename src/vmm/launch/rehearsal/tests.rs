//! Command lines of throw-away copies: what stays, what becomes nothing, and what is refused.

use std::path::Path;

use super::*;

fn is_same(typed: &str, disk: &Path) -> bool {
    Path::new("/srv").join(typed) == disk
}

/// Parts a line as a shell does, with single quotes alone.
fn split(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (number, part) in line.split('\'').enumerate() {
        let mut more = if number % 2 == 0 {
            part.split(' ').collect()
        } else {
            vec![part]
        }
        .into_iter();
        let last = words.last_mut().unwrap();
        last.push_str(more.next().unwrap());
        words.extend(more.map(str::to_owned));
    }
    words.retain(|word| !word.is_empty());
    words
}

fn made(words: &str, has_disk: bool) -> Result<Started, Unlaunchable> {
    made_of(words, has_disk, false)
}

fn made_of(words: &str, has_disk: bool, has_overlays: bool) -> Result<Started, Unlaunchable> {
    let words = split(&format!("qemu {words}"));
    let disks = [Moved {
        from: "/srv/a.raw".into(),
        to: "/r/disks/0-a.raw".into(),
    }];
    let copied = Copied {
        own: Path::new("/r"),
        monitor: Path::new("/r/qmp.sock"),
        disks: &disks[..usize::from(has_disk)],
        is_same: &is_same,
        has_overlays,
        has_memory: true,
        cid: 77,
    };
    arguments(&words, &copied)
}

const END: &str =
    " -display none -monitor none -qmp unix:/r/qmp.sock,server=on,wait=off -S -incoming defer";

fn line(words: &str, has_disk: bool) -> String {
    let started = made(words, has_disk).unwrap_or_else(|error| panic!("{words}: {error}"));
    let line = started.arguments.join(" ");
    line.strip_suffix(END)
        .unwrap_or_else(|| panic!("{line}"))
        .to_owned()
}

#[test]
fn what_makes_up_the_guest_stays_and_what_reaches_others_becomes_nothing() {
    for (recorded, now) in [
        (
            "-m 1G -smp 2 -cpu host,+x -enable-kvm",
            "-m 1G -smp 2 -cpu host,+x -enable-kvm",
        ),
        (
            "-daemonize -S -pidfile /p -qmp unix:/q,server=on -vnc :1 -runas me -m 1",
            "-m 1",
        ),
        (
            "-chardev socket,id=mon0,path=/m,server=on -mon chardev=mon0",
            "",
        ),
        (
            "-chardev socket,id=s0,path=/s,server=on,mux=on,logfile=/l",
            "-chardev file,id=s0,path=/r/console-0.log",
        ),
        (
            "-serial tcp::4444,server -parallel none",
            "-serial file:/r/console-0.log -parallel none",
        ),
        ("-serial mon:stdio", "-serial file:/r/console-0.log"),
        ("-serial chardev:s0", "-serial chardev:s0"),
        (
            "-netdev user,id=n,hostfwd=tcp::22-:22,net=10.1.0.0/24",
            "-netdev user,id=n,net=10.1.0.0/24,restrict=on",
        ),
        (
            "-netdev tap,id=n,ifname=tap0,script=/x,vhost=on",
            "-netdev tap,id=n,ifname=rehearsal0,script=no,downscript=no",
        ),
        (
            "-netdev tap,fds=3:4,id=n,vhostfds=5:6",
            "-netdev tap,id=n,ifname=rehearsal0,script=no,downscript=no,queues=2",
        ),
        (
            "-netdev bridge,br=br0,id=n",
            "-netdev tap,id=n,ifname=rehearsal0,script=no,downscript=no",
        ),
        (
            "-nic tap,model=e1000,mac=52:54:00:00:00:01,br=b",
            "-nic tap,model=e1000,mac=52:54:00:00:00:01,ifname=rehearsal0,script=no,downscript=no",
        ),
        (
            "-netdev stream,id=n,server=off,addr.type=unix,addr.path=/x",
            "-netdev hubport,id=n,hubid=1001",
        ),
        (
            "-device vhost-vsock-pci,id=v,guest-cid=3",
            "-device vhost-vsock-pci,id=v,guest-cid=77",
        ),
        (
            r#"-device '{"driver":"vhost-vsock-pci","guest-cid":3}'"#,
            r#"-device {"driver":"vhost-vsock-pci","guest-cid":77}"#,
        ),
        (
            "-device virtio-net-pci,netdev=n -device usb-tablet",
            "-device virtio-net-pci,netdev=n -device usb-tablet",
        ),
        (
            "-object memory-backend-file,id=ram,size=1G,mem-path=/dev/shm/x,share=on,prealloc=on",
            "-object memory-backend-ram,id=ram,size=1G",
        ),
        (
            "-object rng-random,id=r,filename=/dev/urandom",
            "-object rng-builtin,id=r",
        ),
        (
            r#"-object '{"qom-type":"secret","id":"masterKey0","file":"/k"}'"#,
            "",
        ),
        (
            "-audiodev pa,id=a,server=x -spice port=1",
            "-audiodev none,id=a -spice unix=on,addr=/r/spice.sock,disable-ticketing=on",
        ),
        (
            "-add-fd set=0,fd=30,opaque=s -chardev file,id=c,path=/dev/fdset/0,append=on",
            "-chardev file,id=c,path=/r/console-0.log",
        ),
        (
            "-display gtk -cdrom /iso -sandbox on",
            "-cdrom /iso -sandbox on",
        ),
    ] {
        let nodefaults = format!("-nodefaults {recorded}");
        assert_eq!(
            line(&nodefaults, false),
            format!("-nodefaults {now}").trim_end(),
            "{recorded}"
        );
    }
    // A machine with defaults has a serial line, which is the first console.
    let started = made("-m 2G", false).unwrap();
    assert_eq!(started.consoles, [Path::new("/r/console-0.log")]);
    assert!(
        started
            .arguments
            .join(" ")
            .starts_with("-m 2G -serial file:/r/console-0.log")
    );
    assert_eq!(started.memory_bytes, 2 << 30);
}

#[test]
fn only_copies_are_written_and_all_else_is_read() {
    for (recorded, now) in [
        (
            "-drive file=/srv/a.raw,if=virtio,format=raw",
            "-drive file=/r/disks/0-a.raw,if=virtio,format=raw",
        ),
        ("-hda a.raw", "-hda /r/disks/0-a.raw"),
        ("a.raw", "-hda /r/disks/0-a.raw"),
        (
            r#"-blockdev '{"driver":"raw","file":{"driver":"host_device","filename":"/srv/a.raw"}}'"#,
            r#"-blockdev {"driver":"raw","file":{"driver":"file","filename":"/r/disks/0-a.raw"}}"#,
        ),
    ] {
        assert_eq!(
            line(&format!("-nodefaults {recorded}"), true),
            format!("-nodefaults {now}"),
            "{recorded}"
        );
    }
    for (recorded, now) in [
        (
            "-drive file=/iso,media=cdrom",
            "-drive file=/iso,media=cdrom",
        ),
        (
            "-drive if=pflash,file=/code,readonly=on",
            "-drive if=pflash,file=/code,readonly=on",
        ),
        ("-drive if=none,id=cd", "-drive if=none,id=cd"),
        (
            "-blockdev driver=file,node-name=f,filename=/code,auto-read-only=on",
            "-blockdev file,node-name=f,filename=/code,read-only=on",
        ),
        (
            r#"-blockdev '{"driver":"qcow2","file":{"driver":"file","filename":"/x"},"read-only":false}'"#,
            r#"-blockdev {"driver":"qcow2","file":{"driver":"file","filename":"/x","read-only":true},"read-only":true}"#,
        ),
    ] {
        assert_eq!(
            line(&format!("-nodefaults {recorded}"), false),
            format!("-nodefaults {now}"),
            "{recorded}"
        );
    }
}

#[test]
fn what_may_do_harm_or_is_not_known_is_refused_by_its_name() {
    for recorded in [
        "-virtfs local,path=/srv,mount_tag=m",
        "-fsdev local,id=f,path=/srv",
        "-device virtio-9p-pci,fsdev=f",
        "-device vfio-pci,host=01:00.0",
        "-device vhost-user-fs-pci,chardev=c",
        "-device usb-host,hostbus=1",
        "-device scsi-block,drive=d",
        "-device virtio-blk-pci,fd=3",
        "-netdev vhost-user,id=n,chardev=c",
        "-netdev vhost-vdpa,id=n,vhostdev=/dev/v",
        "-drive file=/dev/fdset/1,readonly=on",
        "-object cryptodev-vhost-user,id=c",
        "-drive file=/srv/b.raw,if=virtio",
        "-drive file=nbd:host:10809,readonly=on",
        "-drive driver=nbd,host=h,readonly=on",
        "-drive file=/srv/a.raw,snapshot=on",
        "-drive file=/dev/sr0,media=cdrom",
        "-blockdev driver=iscsi,node-name=i,portal=p",
        r#"-blockdev '{"driver":"nbd","node-name":"n"}'"#,
        "-hdb /srv/b.raw",
        "-tpmdev emulator,id=t,chardev=c",
        "-readconfig /x",
        "-snapshot -m 1",
        "-made-up x",
        "-serial",
    ] {
        let error = made(&format!("-nodefaults {recorded}"), false)
            .unwrap_err()
            .to_string();
        let name = recorded.split_whitespace().next().unwrap();
        assert!(
            error.contains(name) && error.contains("reaches beyond"),
            "{recorded}: {error}"
        );
    }
    let secret = "-object secret,id=s,data=x -drive file=/srv/a.raw,format=luks,key-secret=s";
    let error = made(secret, true).unwrap_err().to_string();
    assert!(error.contains("the secret s"), "{error}");
    let unnamed = made("-m 1G", true).unwrap_err().to_string();
    assert!(
        unnamed.contains("does not name the disk /srv/a.raw"),
        "{unnamed}"
    );
    let all = made("-made-up x -device vfio-pci,host=1", false)
        .unwrap_err()
        .to_string();
    assert!(all.contains("-made-up x, -device vfio-pci"), "{all}");
}

#[test]
fn sizes_are_read_as_qemu_does() {
    for (text, expected) in [
        ("512", Some(512 << 20)),
        ("1G", Some(1 << 30)),
        ("2048M", Some(2 << 30)),
        ("x", None),
    ] {
        assert_eq!(bytes(text, 20), expected, "{text}");
    }
    assert_eq!(
        made("-m size=1G,slots=2,maxmem=4G", false)
            .unwrap()
            .memory_bytes,
        1 << 30
    );
    assert_eq!(made("-smp 1", false).unwrap().memory_bytes, 128 << 20);
}

#[test]
fn a_raw_disk_under_an_image_of_its_changes_is_told_as_that() {
    for (recorded, now) in [
        (
            "-drive file=/srv/a.raw,if=virtio,format=raw",
            "-drive file=/r/disks/0-a.raw,if=virtio,format=qcow2",
        ),
        (
            "-drive file=/srv/a.raw,if=virtio",
            "-drive file=/r/disks/0-a.raw,if=virtio",
        ),
        (
            "-blockdev file,node-name=f,filename=/srv/a.raw -blockdev raw,node-name=d,file=f",
            "-blockdev file,node-name=f,filename=/r/disks/0-a.raw -blockdev qcow2,node-name=d,file=f",
        ),
        (
            "-blockdev driver=raw,node-name=d,file.driver=file,file.filename=/srv/a.raw",
            "-blockdev qcow2,node-name=d,file.driver=file,file.filename=/r/disks/0-a.raw",
        ),
        (
            r#"-blockdev '{"driver":"file","node-name":"f","filename":"/srv/a.raw"}' -blockdev '{"driver":"qcow2","file":"f"}'"#,
            r#"-blockdev {"driver":"file","node-name":"f","filename":"/r/disks/0-a.raw"} -blockdev {"driver":"qcow2","file":"f"}"#,
        ),
        (
            r#"-blockdev '{"driver":"raw","file":{"driver":"file","filename":"/srv/a.raw"}}'"#,
            r#"-blockdev {"driver":"qcow2","file":{"driver":"file","filename":"/r/disks/0-a.raw"}}"#,
        ),
    ] {
        let started = made_of(&format!("-nodefaults {recorded}"), true, true);
        let started = started.unwrap_or_else(|error| panic!("{recorded}: {error}"));
        let line = started.arguments.join(" ");
        assert_eq!(
            line,
            format!("-nodefaults {now} -add-fd fd=3,set=3{END}"),
            "{recorded}"
        );
    }
    // The guest would see the image as its disk.
    for recorded in [
        "-blockdev file,node-name=f,filename=/srv/a.raw -device virtio-blk-pci,drive=f",
        r#"-blockdev '{"driver":"file","node-name":"f","filename":"/srv/a.raw"}'"#,
    ] {
        let error = made_of(recorded, true, true).unwrap_err().to_string();
        assert!(
            error.contains("the node f of a disk without a format"),
            "{error}"
        );
    }
}

/// As libvirt 9 starts what virt-install makes of a Linux guest.
const LIBVIRT: &str = r#"-name guest=web-1,debug-threads=on -S
 -object '{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/var/lib/libvirt/qemu/domain-1-web-1/master-key.aes"}'
 -blockdev '{"driver":"file","filename":"/usr/share/OVMF/CODE.fd","node-name":"pflash0-storage","auto-read-only":true}'
 -blockdev '{"node-name":"pflash0-format","read-only":true,"driver":"raw","file":"pflash0-storage"}'
 -blockdev '{"driver":"file","filename":"/srv/a.raw","node-name":"pflash1-storage","auto-read-only":true}'
 -blockdev '{"node-name":"pflash1-format","read-only":false,"driver":"raw","file":"pflash1-storage"}'
 -machine pc-q35-7.2,usb=off,smm=on,memory-backend=pc.ram,pflash0=pflash0-format,pflash1=pflash1-format -accel kvm
 -cpu host,migratable=on -global driver=cfi.pflash01,property=secure,value=on -m size=2097152k
 -object '{"qom-type":"memory-backend-ram","id":"pc.ram","size":2147483648}' -overcommit mem-lock=off
 -smp 2,sockets=2,cores=1,threads=1 -uuid 6cf54ec1-7762-4348-86e2-649831a8e0ba -no-user-config -nodefaults
 -chardev socket,id=charmonitor,fd=35,server=on,wait=off -mon chardev=charmonitor,id=monitor,mode=control
 -rtc base=utc,driftfix=slew -no-shutdown -boot strict=on
 -device '{"driver":"pcie-root-port","port":16,"chassis":1,"id":"pci.1","bus":"pcie.0","multifunction":true}'
 -device '{"driver":"qemu-xhci","id":"usb"}' -device '{"driver":"virtio-serial-pci","id":"virtio-serial0"}'
 -device '{"driver":"ide-cd","bus":"ide.0","id":"sata0-0-0"}'
 -netdev '{"type":"tap","fds":"36:37","vhost":true,"vhostfds":"38:39","id":"hostnet0"}'
 -device '{"driver":"virtio-net-pci","mq":true,"vectors":6,"netdev":"hostnet0","mac":"52:54:00:00:00:01"}'
 -add-fd set=0,fd=34,opaque=serial0-source -chardev pty,id=charserial0,logfile=/dev/fdset/0,logappend=on
 -device '{"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":0}'
 -chardev socket,id=charchannel0,fd=33,server=on,wait=off
 -device '{"driver":"virtserialport","chardev":"charchannel0","name":"org.qemu.guest_agent.0"}'
 -chardev spicevmc,id=charchannel1,name=vdagent -device '{"driver":"usb-tablet","id":"input0"}'
 -audiodev '{"id":"audio1","driver":"spice"}' -spice port=5900,addr=127.0.0.1,seamless-migration=on
 -device '{"driver":"virtio-vga","id":"video0","max_outputs":1}' -device '{"driver":"ich9-intel-hda","id":"sound0"}'
 -device '{"driver":"hda-duplex","audiodev":"audio1"}' -chardev spicevmc,id=charredir0,name=usbredir
 -device '{"driver":"usb-redir","chardev":"charredir0","id":"redir0"}' -device '{"driver":"virtio-balloon-pci"}'
 -object '{"qom-type":"rng-random","id":"objrng0","filename":"/dev/urandom"}'
 -device '{"driver":"virtio-rng-pci","rng":"objrng0"}' -msg timestamp=on
 -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"#;

#[test]
fn what_libvirt_starts_can_be_rehearsed_and_keeps_nothing_of_the_hosts() {
    let started = made(&LIBVIRT.replace('\n', ""), true).unwrap();
    let line = started.arguments.join(" ");
    for gone in [
        "fd=3",
        "fds",
        "masterKey0",
        "5900",
        "charmonitor",
        "fdset",
        "/dev/",
        "secret",
        "\"spice\"",
    ] {
        assert!(!line.contains(gone), "{gone}: {line}");
    }
    let netdev = r#"{"type":"tap","id":"hostnet0","ifname":"rehearsal0","script":"no","downscript":"no","queues":2}"#;
    assert!(line.contains(netdev), "{line}");
    assert!(line.contains(
        r#""filename":"/usr/share/OVMF/CODE.fd","node-name":"pflash0-storage","read-only":true"#
    ));
    assert_eq!(started.memory_bytes, 2 << 30);
    assert_eq!(started.consoles.len(), 4);
    let tap = Tap {
        name: "rehearsal0".to_owned(),
        is_multi_queue: true,
    };
    assert_eq!(started.taps, [tap]);
}
