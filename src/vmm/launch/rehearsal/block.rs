//! The block devices of a throw-away copy: disks that were copied, and files that are only read.

use serde_json::Value as Json;

use super::super::{IsSame, Moved, Moves, Unlaunchable};
use super::known::BLOCK_DRIVERS;
use super::value::Value;

/// The driver of a node for a block device of the host, which a copy in a file takes the place of.
const HOST_DEVICE: &str = "host_device";

/// What a raw disk becomes by an image of its changes.
const OVERLAY: &str = "qcow2";

/// Block devices that are met one after the other.
pub(super) struct Blocks<'a> {
    moves: Moves<'a>,
    has_overlays: bool,
    /// The nodes of images whose format no node has told yet.
    unformatted: Vec<String>,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(disks: &'a [Moved], is_same: IsSame<'a>, has_overlays: bool) -> Self {
        Self {
            moves: Moves::new(disks, is_same),
            has_overlays,
            unformatted: Vec::new(),
        }
    }

    /// Nodes of disks that the guest would see as the image that they are in.
    pub(super) fn unformatted(&self) -> Vec<String> {
        let nodes = self.unformatted.iter();
        nodes
            .map(|name| format!("the node {name} of a disk without a format"))
            .collect()
    }

    /// Notes the driver of a node that has a copied disk in it, or in the node `file`, and gives the one that it gets.
    fn formatted(&mut self, driver: &str, file: Option<&str>, is_disk: bool) -> Option<String> {
        if !self.has_overlays || !["raw", OVERLAY].contains(&driver) {
            return None;
        }
        let at = file.and_then(|file| self.unformatted.iter().position(|it| it == file));
        if let Some(at) = at {
            self.unformatted.remove(at);
        }
        (is_disk || at.is_some()).then(|| OVERLAY.to_owned())
    }

    /// Where the copy of a disk is.
    pub(super) fn now(&mut self, typed: &str) -> Option<String> {
        self.moves.now(typed.strip_prefix("file:").unwrap_or(typed))
    }

    /// # Errors
    /// When a disk of the snapshot was not met.
    pub(super) fn finish(self) -> Result<(), Unlaunchable> {
        self.moves.finish()
    }

    /// The value of a `-drive`; else what is wrong with it.
    pub(super) fn drive(&mut self, value: &str) -> Result<String, String> {
        let mut parts = Value::parse(value, "file");
        let is_read_only = parts.is_on("readonly")
            || parts.is_on("read-only")
            || parts.get("media").is_some_and(|media| media == "cdrom");
        if parts.is_on("snapshot") {
            return Err("its changes are nowhere".to_owned());
        }
        let has_moved = self.fields(&mut parts, "readonly", is_read_only)?;
        if !(has_moved || is_read_only || parts.get("file").is_none()) {
            return Err("it is not in the snapshot".to_owned());
        }
        Ok(parts.text(""))
    }

    /// The value of a `-blockdev`; else what is wrong with it.
    pub(super) fn blockdev(&mut self, value: &str) -> Result<String, String> {
        match Value::parse(value, "driver") {
            Value::Json(object) => {
                let mut node = Json::Object(object);
                self.node(&mut node)?;
                Ok(node.to_string())
            }
            mut parts @ Value::Fields(_) => {
                self.fields(&mut parts, "read-only", false)?;
                Ok(parts.text("driver"))
            }
        }
    }

    /// Whether one of the fields names a disk that was copied; what they name besides is only read.
    fn fields(&mut self, parts: &mut Value, switch: &str, may_stay: bool) -> Result<bool, String> {
        let Value::Fields(fields) = &*parts else {
            return Err("it is written in a way that is not known".to_owned());
        };
        let fields = fields.clone();
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let is_file = |key: &str| ["file", "filename"].contains(&last(key).as_str());
        // In -blockdev `file` is the name of a node.
        let is_path = |key: &str| last(key) == "filename" || (switch == "readonly" && is_file(key));
        let mut has_moved = false;
        let mut is_read = false;
        for (key, text) in fields.iter().filter(|(key, _)| is_path(key)) {
            if let Some(now) = self.now(text) {
                parts.set(key, &now);
                has_moved = true;
            } else {
                local(text)?;
                is_read |= !may_stay;
            }
        }
        for (key, text) in &fields {
            if last(key) != "driver" {
                continue;
            }
            if text == HOST_DEVICE && has_moved {
                parts.set(key, "file");
            } else if !BLOCK_DRIVERS.contains(&text.as_str()) {
                return Err(format!("the driver {text}"));
            }
        }
        self.format_fields(parts, switch, has_moved);
        if is_read && !has_moved {
            let switches = |key: &str| {
                ["read-only", "readonly", "auto-read-only"].contains(&last(key).as_str())
            };
            parts.keep(|key| !switches(key));
            parts.set(switch, "on");
        }
        Ok(has_moved)
    }

    /// Gives a raw disk the format of the image that it is in.
    fn format_fields(&mut self, parts: &mut Value, switch: &str, has_moved: bool) {
        let key = if switch == "readonly" && parts.get("format").is_some() {
            "format"
        } else {
            "driver"
        };
        let driver = parts.get(key);
        let file = parts.get("file").filter(|_| switch != "readonly");
        let driver = driver.as_deref().unwrap_or_default();
        if let Some(format) = self.formatted(driver, file.as_deref(), has_moved) {
            parts.set(key, &format);
        } else if let (true, true, Some(name)) = (
            self.has_overlays,
            has_moved && driver == "file",
            parts.get("node-name"),
        ) {
            self.unformatted.push(name);
        }
    }

    /// One block node, and those in it. Says whether something in it is only read.
    fn node(&mut self, node: &mut Json) -> Result<bool, String> {
        let Json::Object(object) = node else {
            return Ok(false);
        };
        let mut reads = false;
        let mut has_moved = false;
        let unformatted = self.unformatted.len();
        for (key, value) in object.iter_mut() {
            match value {
                Json::String(text) if key == "filename" => {
                    if let Some(now) = self.now(text) {
                        *text = now;
                        has_moved = true;
                    } else {
                        local(text)?;
                        reads = true;
                    }
                }
                // What is behind an image is only read, whatever the image is.
                Json::Object(_) if key == "backing" => {
                    self.node(value)?;
                }
                Json::Object(_) => reads |= self.node(value)?,
                Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) => {
                }
            }
        }
        if let Some(Json::String(driver)) = object.get_mut("driver") {
            if driver == HOST_DEVICE && has_moved {
                "file".clone_into(driver);
            } else if !BLOCK_DRIVERS.contains(&driver.as_str()) {
                return Err(format!("the driver {driver}"));
            }
        }
        let name = object
            .get("node-name")
            .and_then(Json::as_str)
            .map(str::to_owned);
        let driver = object
            .get("driver")
            .and_then(Json::as_str)
            .unwrap_or_default()
            .to_owned();
        let file = object.get("file").and_then(Json::as_str).map(str::to_owned);
        // A node within this one has no name of its own.
        let is_disk = self.unformatted.len() > unformatted;
        if let Some(format) = self.formatted(&driver, file.as_deref(), is_disk) {
            self.unformatted.truncate(unformatted);
            object.insert("driver".to_owned(), Json::from(format));
        } else if self.has_overlays && has_moved {
            self.unformatted.push(name.unwrap_or_default());
        }
        if reads {
            object.remove("auto-read-only");
            object.insert("read-only".to_owned(), Json::Bool(true));
        }
        Ok(reads)
    }
}

/// Requires a file of this host.
fn local(text: &str) -> Result<(), String> {
    let path = text.strip_prefix("file:").unwrap_or(text);
    let first = path.split('/').next().unwrap_or_default();
    if first.contains(':') {
        return Err("it is not a local file".to_owned());
    }
    if path.starts_with("/dev/") {
        return Err("it is a device of the host".to_owned());
    }
    Ok(())
}
