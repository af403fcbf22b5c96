//! Compression of snapshots that are only files: what it leaves alone, and what is cleared up behind the dead.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::*;
use crate::engine::local::data_dir::DataDir;
use crate::engine::local::reading;
use crate::engine::local::staging::Staging;
use crate::fs::beneath::Beneath;
use crate::interrupt::Watch;
use crate::snapshot::storing::{Method, MinFree};
use crate::snapshot::{Consistency, Kind, Snapshot, SnapshotId};

const STATE: &str = "snapshots/snapshot-latest";
const LONG: Duration = Duration::from_secs(3600);

struct Scene {
    root: tempfile::TempDir,
    store: SnapshotStore,
    markers: Markers,
    min_free: Option<MinFree>,
}

fn id() -> SnapshotId {
    "s1".parse().unwrap()
}

/// Memory that packs well.
fn plain() -> Vec<u8> {
    let words = (0..500_000_u32).flat_map(|it| (it / 64).to_le_bytes());
    words.collect()
}

fn random() -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    fastrand::Rng::with_seed(3).fill(&mut bytes);
    bytes
}

impl Scene {
    /// A store with a snapshot of this memory.
    fn new(memory: &[u8]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let data = DataDir::at(root.path()).unwrap();
        let store = SnapshotStore::of(&data);
        let staging = Staging::create(&store, &id()).unwrap();
        let state = staging.guest().join(STATE);
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("memory"), memory).unwrap();
        fs::write(staging.guest().join("overlay.raw"), "disk").unwrap();
        let snapshot = Snapshot {
            id: id(),
            name: "nightly".to_owned(),
            kind: Kind::Standby,
            consistency: Consistency::Memory,
            tags: BTreeMap::new(),
            source_instance_id: "vm1".to_owned(),
            source_instance_name: "web".to_owned(),
            source_hypervisor: "qemu".to_owned(),
            created_at: "2026-09-02T03:15:20Z".parse().unwrap(),
            size_bytes: 0,
            disk_bytes: None,
            unusable: None,
            verified_at: None,
            rehearsed: None,
        };
        let manifest = json!({"version": 2, "state_dir": STATE, "disks": [], "files": []});
        let manifest = serde_json::from_value(manifest).unwrap();
        let step = Progress::silent().begin("", "", None);
        let watch = Watch::unlimited();
        let digests = reading::of_state(staging.dir(), Path::new(STATE), watch, &step).unwrap();
        staging
            .publish(snapshot, &Map::new(), manifest, digests)
            .unwrap();
        let markers = markers(&root.path().join("state"));
        Self {
            store,
            markers,
            min_free: None,
            root,
        }
    }

    fn compress(&self, time: Duration) -> Compressed {
        self.try_compress(time).unwrap()
    }

    fn try_compress(&self, time: Duration) -> Result<Compressed, EngineError> {
        let room = Room {
            state_dir: self.root.path(),
            min_free: self.min_free,
        };
        let compressor = Compressor {
            store: &self.store,
            markers: &self.markers,
            room: &room,
            progress: &Progress::silent(),
        };
        compressor.compress(&Compress {
            id: &id(),
            method: Method::Zstd(1),
            min_free: self.min_free,
            watch: Watch::begin(Some(time)),
        })
    }

    fn state(&self) -> PathBuf {
        self.store.snapshot_dir(&id()).join("guest").join(STATE)
    }

    fn forms(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state()).unwrap();
        let names = entries.map(|it| it.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn record(&self) -> Value {
        let bytes = fs::read(self.store.snapshot_dir(&id()).join(RECORD)).unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()["snapshot"].clone()
    }

    fn is_marked(&self) -> bool {
        !self.markers.list().unwrap().is_empty()
    }

    fn clear_up(&self) -> Vec<String> {
        clear_up(&self.store, &self.markers).unwrap()
    }
}

#[test]
fn a_frame_takes_the_place_of_the_memory_once() {
    let memory = plain();
    let scene = Scene::new(&memory);
    let done = scene.compress(LONG);
    let packed_bytes = scene.state().join("memory.zst").metadata().unwrap().len();
    let expected = Compressed::Done {
        raw_bytes: memory.len() as u64,
        packed_bytes,
    };
    assert_eq!(done, expected);
    assert_eq!(scene.forms(), ["memory.zst"]);
    assert!(!scene.is_marked());
    let listing = scene.store.list().unwrap();
    assert!(listing.snapshots[0].is_usable(), "{listing:?}");
    let guest = scene.store.snapshot_dir(&id()).join("guest");
    let size_bytes = space::apparent_size(&guest).unwrap();
    assert_eq!(listing.snapshots[0].size_bytes, size_bytes);
    assert_eq!(scene.compress(LONG), Compressed::Nothing);
    // It is left alone when it is gone.
    scene.store.delete(&id()).unwrap();
    assert_eq!(scene.compress(LONG), Compressed::Nothing);
}

/// What is said, the memory, and what is done to it before.
type Case<'a> = (&'a str, &'a [u8], &'a dyn Fn(&Scene));

#[test]
fn what_is_of_no_use_is_said_once_and_not_tried_again() {
    let cases: [Case<'_>; 3] = [
        ("not take less room", &random(), &|_| {}),
        ("next run was due", &plain(), &|_| {}),
        ("is not what it was between byte", &plain(), &|scene| {
            let path = scene.state().join("memory");
            let mut content = fs::read(&path).unwrap();
            content[5000] ^= 1;
            fs::write(path, content).unwrap();
        }),
    ];
    for (says, memory, change) in cases {
        let scene = Scene::new(memory);
        change(&scene);
        let time = if says.contains("due") {
            Duration::ZERO
        } else {
            LONG
        };
        let before = fs::read(scene.state().join("memory")).unwrap();
        let Compressed::Never(why) = scene.compress(time) else {
            panic!("{says}");
        };
        assert!(why.contains(says), "{why}");
        assert_eq!(scene.forms(), ["memory"], "{says}");
        assert!(fs::read(scene.state().join("memory")).unwrap() == before);
        assert_eq!(scene.record()["compression_state"], "error");
        assert_eq!(scene.record()["compression_error"], why);
        assert!(!scene.is_marked());
        assert_eq!(scene.compress(LONG), Compressed::Nothing, "{says}");
    }
}

#[test]
fn what_can_not_be_done_now_is_left_for_later() {
    let mut scene = Scene::new(&plain());
    let free = space::free_bytes(scene.root.path()).unwrap();
    scene.min_free = Some(MinFree::Bytes(free + (1 << 30)));
    let Compressed::Later(why) = scene.compress(LONG) else {
        panic!();
    };
    assert!(why.contains("stay free (--min-free"), "{why}");
    scene.min_free = None;
    let held = claim(&scene.store.snapshot_dir(&id())).unwrap().unwrap();
    assert!(matches!(scene.compress(LONG), Compressed::Later(_)));
    drop(held);
    let directory = scene.store.snapshot_dir(&id());
    let marker = scene.markers.take(&id(), &directory).unwrap().unwrap();
    assert!(matches!(scene.compress(LONG), Compressed::Later(_)));
    assert_eq!(scene.clear_up(), Vec::<String>::new());
    drop(marker);
    // A fork's second name for the memory would go on taking its room.
    let memory = scene.state().join("memory");
    fs::hard_link(&memory, scene.root.path().join("fork")).unwrap();
    assert_eq!(scene.compress(LONG), Compressed::Nothing);
    fs::remove_file(scene.root.path().join("fork")).unwrap();
    assert_eq!(scene.forms(), ["memory"]);
    assert_eq!(scene.record()["compression_state"], "none");
    assert!(matches!(scene.compress(LONG), Compressed::Done { .. }));
}

#[test]
fn what_the_dead_left_is_cleared_up_and_the_raw_memory_counts() {
    let of = |forms: &[&str], state: Option<State>| {
        let scene = Scene::new(&plain());
        let directory = scene.store.snapshot_dir(&id());
        drop(scene.markers.take(&id(), &directory).unwrap().unwrap());
        for form in forms {
            fs::write(scene.state().join(form), "part of a frame").unwrap();
        }
        if let Some(state) = state {
            state::note(&directory.join(RECORD), &state).unwrap();
        }
        let read = reading_differs(&scene);
        assert_eq!(read, None, "{forms:?}");
        scene
    };
    let method = Method::Zstd(1);
    let compressed = State::Compressed {
        method,
        packed_bytes: 15,
        raw_bytes: 2_000_000,
        size_bytes: 100,
    };
    for (forms, state) in [
        (&[][..], None),
        (&[], Some(State::Compressing(method))),
        (&["memory.zst.tmp"], Some(State::Compressing(method))),
        (&["memory.zst"], Some(State::Compressing(method))),
        (&["memory.zst"], Some(compressed)),
        (&["memory.lz4", "memory.zst.tmp"], None),
    ] {
        let scene = of(forms, state);
        let lines = scene.clear_up();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("snapshot s1"), "{lines:?}");
        assert_eq!(scene.forms(), ["memory"], "{forms:?}");
        assert_eq!(scene.record()["compression_state"], "none");
        assert!(!scene.is_marked());
        assert_eq!(scene.clear_up(), Vec::<String>::new());
        assert!(matches!(scene.compress(LONG), Compressed::Done { .. }));
    }
    // Died when all was done, and one whose snapshot is gone by now.
    let scene = Scene::new(&plain());
    scene.compress(LONG);
    let directory = scene.store.snapshot_dir(&id());
    drop(scene.markers.take(&id(), &directory).unwrap().unwrap());
    let before = scene.record();
    assert_eq!(scene.clear_up(), Vec::<String>::new());
    assert_eq!(
        (scene.forms(), scene.record()),
        (vec!["memory.zst".to_owned()], before)
    );
    drop(scene.markers.take(&id(), &directory).unwrap().unwrap());
    scene.store.delete(&id()).unwrap();
    assert_eq!(scene.clear_up(), Vec::<String>::new());
    assert!(!scene.is_marked());
    // That of another store is another's.
    let elsewhere = Path::new("/elsewhere/s1");
    drop(scene.markers.take(&id(), elsewhere).unwrap().unwrap());
    scene.clear_up();
    assert!(scene.is_marked());
}

/// What is different from what was saved, by the digests of that time.
fn reading_differs(scene: &Scene) -> Option<String> {
    let directory = File::open(scene.store.snapshot_dir(&id())).unwrap();
    let digests = Digests::read(&directory, &id()).unwrap();
    let memory = Memory::find(&scene.store.snapshot_dir(&id()), &id()).unwrap();
    let guest = Beneath::open(&scene.store.snapshot_dir(&id()).join("guest")).unwrap();
    let step = Progress::silent().begin("", "", None);
    let path = memory.unwrap().path().to_owned();
    let now = reading::of_file(&guest, &path, Watch::unlimited(), &step).unwrap();
    digests.of(&path).unwrap().difference(&now)
}
