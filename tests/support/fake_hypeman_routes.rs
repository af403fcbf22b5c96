//! What the fake hypeman server answers where nothing goes wrong: the contract, route by route.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::fake_hypeman::{Answer, KEY, Recorded, World};

/// Carries out a request.
pub fn answer(world: &mut World, request: &Recorded) -> Answer {
    let (method, target) = request.line.split_once(' ').unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path: Vec<Cow<'_, str>> = path.trim_matches('/').split('/').map(decode).collect();
    let path: Vec<&str> = path.iter().map(AsRef::as_ref).collect();
    if path == ["health"] {
        return Answer::json(200, &json!({"status": "ok"})).with("Server", "fake-hypeman/1");
    }
    if request.authorization.as_deref() != Some(&format!("Bearer {KEY}")) {
        return Answer::error(401, "Unauthorized", "credentials required");
    }
    match (method, path.as_slice()) {
        ("GET", ["instances"]) => {
            let all: Vec<Value> = world.instances.keys().map(|id| show(world, id)).collect();
            Answer::json(200, &Value::Array(all))
        }
        ("GET", ["instances", reference]) => with_instance(world, reference, |world, id| {
            Answer::json(200, &show(world, id))
        }),
        ("POST", ["instances", reference, "snapshots"]) => create(world, reference, &request.body),
        ("POST", ["instances", reference, "snapshots", id, "restore"]) => {
            restore(world, reference, id, &request.body)
        }
        ("POST", ["instances", reference, "restore"]) => {
            with_instance(world, reference, |world, id| {
                if world.instances[id].1 != "Standby" {
                    return Answer::error(409, "invalid_state", "instance is not in Standby");
                }
                world.set_state(id, "Running");
                Answer::json(200, &show(world, id))
            })
        }
        ("GET", ["instances", reference, "snapshot-schedule"]) if world.schedules.is_some() => {
            with_instance(world, reference, |world, id| {
                let schedule = world.schedules.as_ref().and_then(|all| all.get(id));
                schedule.map_or_else(
                    || Answer::error(404, "not_found", "no schedule for this instance"),
                    |schedule| Answer::json(200, schedule),
                )
            })
        }
        ("GET", ["snapshots"]) => list(world, query),
        ("DELETE", ["snapshots", id]) => {
            let before = world.snapshots.len();
            world.snapshots.retain(|snapshot| snapshot["id"] != *id);
            if world.snapshots.len() == before {
                Answer::error(404, "not_found", "no such snapshot")
            } else {
                Answer::text(204, "application/json", "")
            }
        }
        _ => Answer::text(404, "text/plain; charset=utf-8", "404 page not found\n"),
    }
}

/// The body is checked before the instance is looked up, the name before the state (contract, sections 2 and 3).
fn create(world: &mut World, reference: &str, body: &str) -> Answer {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let kind = body["kind"].as_str().unwrap_or_default().to_owned();
    let name = body["name"].as_str().unwrap_or_default().to_owned();
    let is_name = (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !matches!(kind.as_str(), "Standby" | "Stopped") || !is_name {
        return Answer::error(400, "Bad Request", "request body has an error");
    }
    with_instance(world, reference, |world, id| {
        let is_taken = world
            .snapshots
            .iter()
            .any(|snapshot| snapshot["source_instance_id"] == *id && snapshot["name"] == *name);
        if is_taken {
            return Answer::error(
                409,
                "conflict",
                "snapshot name already exists for this source",
            );
        }
        let state = world.instances[id].1.as_str();
        let is_allowed = match kind.as_str() {
            "Standby" => matches!(state, "Running" | "Standby"),
            _ => state == "Stopped",
        };
        if !is_allowed {
            return Answer::error(409, "conflict", "invalid state transition");
        }
        let snapshot = world.make_snapshot(id, &kind, &name, &body["tags"]);
        Answer::json(201, &snapshot)
    })
}

/// Only what runs is refused; what is there is deleted before the copy (contract, section 3).
fn restore(world: &mut World, reference: &str, snapshot: &str, body: &str) -> Answer {
    let Ok(body) = serde_json::from_str::<Value>(body) else {
        return Answer::error(400, "Bad Request", "request body has an error");
    };
    with_instance(world, reference, |world, id| {
        let Some(found) = world.snapshots.iter().find(|it| it["id"] == snapshot) else {
            return Answer::error(404, "not_found", "no such instance or snapshot");
        };
        if found["source_instance_id"] != id {
            return Answer::error(400, "invalid_request", "snapshot is of another instance");
        }
        let has_memory = found["kind"] == "Standby";
        if world.instances[id].1 == "Running" {
            return Answer::error(409, "invalid_state", "source instance is Running");
        }
        let target = match (body["target_state"].as_str(), has_memory) {
            (None, true) => "Running",
            (None, false) => "Stopped",
            (Some(state @ ("Stopped" | "Running")), _) | (Some(state @ "Standby"), true) => state,
            (Some(_), _) => {
                return Answer::error(400, "invalid_request", "no such target state");
            }
        };
        let target = target.to_owned();
        world.restored.insert(id.to_owned(), snapshot.to_owned());
        world.set_state(id, &target);
        Answer::json(200, &show(world, id))
    })
}

fn list(world: &World, query: &str) -> Answer {
    let filters: Vec<(Cow<'_, str>, Cow<'_, str>)> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect();
    let found = world
        .snapshots
        .iter()
        .filter(|snapshot| {
            filters
                .iter()
                .all(|(key, value)| snapshot[key.as_ref()] == *value.as_ref())
        })
        .cloned()
        .collect();
    Answer::json(200, &Value::Array(found))
}

/// Finds an instance by id, name or prefix of an id, as every route below `/instances/{id}` does.
fn with_instance(
    world: &mut World,
    reference: &str,
    then: impl FnOnce(&mut World, &str) -> Answer,
) -> Answer {
    let ids = |rule: &dyn Fn(&str, &str) -> bool| -> Vec<String> {
        let all = world.instances.iter();
        all.filter(|(id, (name, _))| rule(id, name))
            .map(|(id, _)| id.clone())
            .collect()
    };
    let candidates = [
        ids(&|id, _| id == reference),
        ids(&|_, name| name == reference),
        ids(&|id, _| id.starts_with(reference)),
    ];
    match candidates
        .iter()
        .find(|found| !found.is_empty())
        .map(Vec::as_slice)
    {
        None => Answer::error(404, "not_found", "no such instance"),
        Some([id]) => then(world, id),
        Some(_) => Answer::error(409, "ambiguous", "more than one instance matches"),
    }
}

fn show(world: &World, id: &str) -> Value {
    let (name, state) = &world.instances[id];
    json!({
        "id": id,
        "name": name,
        "image": "docker.io/library/nginx:alpine",
        "state": state,
        "hypervisor": "cloud-hypervisor",
        "created_at": "2026-09-01T08:00:00Z",
        "expires_at": null,
        "has_snapshot": false,
        "volumes": [],
        "restart_policy": "always",
    })
}

/// Undoes the escapes of a path segment or a query.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                let digits = String::from_utf8_lossy(&digits).into_owned();
                u8::from_str_radix(&digits, 16).unwrap_or(b'?')
            }
            b'+' => b' ',
            other => other,
        });
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}
