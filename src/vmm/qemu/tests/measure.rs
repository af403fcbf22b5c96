use super::*;
#[test]
#[ignore]
fn measure() {
    let base = std::env::var("MEASURE_DIR").unwrap_or("/tmp".into());
    for (ram, disk) in [(256, 1024), (1024, 8192)] {
        for hz in [200, 0] {
        let scratch = tempfile::Builder::new().prefix("snap-").tempdir_in(&base).unwrap();
        let mut o = VmOptions::new(scratch.path());
        o.ram_mib = ram; o.disk_mib = disk; o.guest.hz = hz; 
        if let Ok(w) = std::env::var("WINDOW") { o.guest.window_mib = w.parse().unwrap(); }
        let vm = TestVm::boot(&o);
        let mut qemu = connect(&vm);
        for kind in ["backup", "floor", "reflink"] {
            let mut pauses = vec![];
            let mut total = vec![];
            for i in 0..10 {
                vm.wait_next_tick();
                let d = state_dir(scratch.path(), &format!("s{i}"));
                let mut p = plan(&mut qemu, &d);
                let disks = p.clone();
                if kind != "backup" { p.disks.clear(); }
                let t = std::time::Instant::now();
                qemu.prepare(&p).unwrap();
                sync_disks(&disks);
                qemu.pause().unwrap();
                if kind == "reflink" {
                    let s = std::fs::File::open(&disks.disks[0].disk.path).unwrap();
                    let t = std::fs::File::create(&disks.disks[0].target).unwrap();
                    if rustix::fs::ioctl_ficlone(&t, &s).is_err() { qemu.resume().unwrap(); qemu.discard(true).unwrap(); fs::remove_dir_all(&d).unwrap(); break; }
                }
                qemu.save(Deadline::after(PAUSE_LIMIT)).unwrap();
                qemu.resume().unwrap();
                let s = qemu.finish().unwrap();
                total.push(t.elapsed().as_millis());
                pauses.push(s.pause.as_secs_f64() * 1e3);
                fs::remove_dir_all(&d).unwrap();
            }
            if pauses.is_empty() { continue; }
            pauses.sort_by(f64::total_cmp);
            total.sort();
            println!("{ram} MiB hz={hz} {kind}: median {:.1} max {:.1} min {:.1} ms; total median {} ms", (pauses[4] + pauses[5]) / 2.0, pauses[9], pauses[0], total[5]);
        }
        }
    }
}
