//! A hypeman server for tests: plain `std::net`, one per test, following the contract, with scripted faults.
//!
//! Included by path from unit tests and from the tests of the command line. It keeps its instances and snapshots in
//! memory, records every request, and decides nothing that the contract does not say.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

/// The key that the server accepts.
pub const KEY: &str = "sekrit-token-f00f";

/// A running server; it ends when this is dropped.
pub struct FakeHypeman {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    world: Mutex<World>,
    is_stopping: AtomicBool,
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// What the server knows.
#[derive(Default)]
pub struct World {
    /// By id: name and state.
    pub instances: BTreeMap<String, (String, String)>,
    /// As the API shows them.
    pub snapshots: Vec<Value>,
    /// By instance: the snapshot that it was last restored from.
    pub restored: BTreeMap<String, String>,
    /// The server's own schedules, by instance id; `None` is a server that has no such route.
    pub schedules: Option<BTreeMap<String, Value>>,
    /// Every request so far.
    pub requests: Vec<Recorded>,
    faults: Vec<(String, VecDeque<Fault>)>,
    created: usize,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// `METHOD /path?query`, as sent.
    pub line: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The body.
    pub body: String,
}

/// Writes an answer.
pub type WriteAnswer = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// What goes wrong with a request.
pub enum Fault {
    /// This answer instead of the real one.
    Answer(Answer),
    /// The connection is closed; nothing was done.
    Drop,
    /// The request is carried out and the connection is closed without an answer.
    LoseAnswer,
    /// The request is carried out and its answer breaks off in the middle.
    CutAnswer,
    /// Nothing is done and nothing is said until the client hangs up.
    Hang,
    /// Nothing is done, and this writes the answer, head and all, for as long as it likes.
    Write(WriteAnswer),
    /// Changes the world first.
    After(Box<dyn FnOnce(&mut World) + Send>, Box<Fault>),
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers besides the length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A JSON answer.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::text(status, "application/json", &body.to_string())
    }

    /// The contract's error body.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::json(status, &json!({"code": code, "message": message}))
    }

    /// Any other text.
    pub fn text(status: u16, content_type: &str, body: &str) -> Self {
        Self {
            status,
            headers: vec![("Content-Type".into(), content_type.into())],
            body: body.into(),
        }
    }

    /// With one more header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl From<Answer> for Fault {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

impl Fault {
    /// A fault that changes the world first.
    pub fn after(change: impl FnOnce(&mut World) + Send + 'static, then: impl Into<Fault>) -> Self {
        Self::After(Box::new(change), Box::new(then.into()))
    }
}

impl World {
    /// Answers `request` (`METHOD /path`, with `*` at the end for any rest) with `fault`, once for each call.
    pub fn fail(&mut self, request: &str, fault: impl Into<Fault>) {
        let fault = fault.into();
        match self.faults.iter_mut().find(|(known, _)| known == request) {
            Some((_, queue)) => queue.push_back(fault),
            None => self
                .faults
                .push((request.to_owned(), VecDeque::from([fault]))),
        }
    }

    /// Sets an instance's state, adding the instance where there is none.
    pub fn set_state(&mut self, id: &str, state: &str) {
        self.instances
            .entry(id.to_owned())
            .or_insert_with(|| (format!("name-of-{id}"), String::new()))
            .1 = state.to_owned();
    }

    /// Makes a snapshot as a creation does, whatever the instance's state.
    #[expect(clippy::disallowed_methods, reason = "a server has a clock of its own")]
    pub fn make_snapshot(&mut self, id: &str, kind: &str, name: &str, tags: &Value) -> Value {
        self.created += 1;
        let created_at = chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now());
        let snapshot = json!({
            "id": format!("snap{:03}", self.created),
            "name": name,
            "kind": kind,
            "tags": tags,
            "source_instance_id": id,
            "source_instance_name": self.instances.get(id).map_or("", |instance| &instance.0),
            "source_hypervisor": "cloud-hypervisor",
            "created_at": created_at.to_rfc3339(),
            "size_bytes": 4096,
            "compression_state": "none",
            "field_of_a_later_version": {"x": [1]},
        });
        self.snapshots.push(snapshot.clone());
        snapshot
    }

    /// The lines of all requests whose line begins so.
    pub fn lines(&self, start: &str) -> Vec<String> {
        self.requests
            .iter()
            .filter(|request| request.line.starts_with(start))
            .map(|request| request.line.clone())
            .collect()
    }

    fn take_fault(&mut self, line: &str) -> Option<Fault> {
        let path = line.split('?').next().unwrap_or_default();
        self.faults
            .iter_mut()
            .find(|(pattern, queue)| {
                !queue.is_empty()
                    && pattern
                        .strip_suffix('*')
                        .map_or(path == pattern, |start| path.starts_with(start))
            })
            .and_then(|(_, queue)| queue.pop_front())
    }
}

impl FakeHypeman {
    /// Starts a server without TLS.
    pub fn start() -> Self {
        Self::listen(None)
    }

    /// Starts a server with TLS.
    pub fn start_tls(config: rustls::ServerConfig) -> Self {
        Self::listen(Some(Arc::new(config)))
    }

    fn listen(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared {
            world: Mutex::new(World {
                schedules: Some(BTreeMap::new()),
                ..World::default()
            }),
            is_stopping: AtomicBool::new(false),
            tls,
        });
        let for_thread = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept(&listener, &for_thread));
        Self {
            address,
            scheme,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// The base URL.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// The server's world, to look at and to change.
    pub fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.shared)
    }
}

impl Drop for FakeHypeman {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, World> {
    shared.world.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.is_stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            // A client that hangs up early is the client's matter.
            let _ = match &shared.tls {
                None => serve(stream, &shared),
                Some(config) => {
                    let tls = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
                    serve(rustls::StreamOwned::new(tls, stream), &shared)
                }
            };
        });
    }
}

fn serve(stream: impl Read + Write, shared: &Shared) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let Some(request) = read_request(&mut stream)? else {
        return Ok(());
    };
    let mut fault = {
        let mut world = lock(shared);
        world.requests.push(request.clone());
        world.take_fault(&request.line)
    };
    while let Some(Fault::After(change, then)) = fault {
        change(&mut lock(shared));
        fault = Some(*then);
    }
    let carry_out = || super::fake_hypeman_routes::answer(&mut lock(shared), &request);
    match fault {
        None => write_answer(stream.get_mut(), &carry_out(), usize::MAX),
        Some(Fault::Answer(answer)) => write_answer(stream.get_mut(), &answer, usize::MAX),
        Some(Fault::LoseAnswer) => {
            carry_out();
            Ok(())
        }
        Some(Fault::CutAnswer) => {
            let answer = carry_out();
            write_answer(stream.get_mut(), &answer, answer.body.len() / 2)
        }
        Some(Fault::Hang) => {
            while !shared.is_stopping.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        }
        Some(Fault::Write(write)) => write(stream.get_mut()),
        Some(Fault::Drop | Fault::After(..)) => Ok(()),
    }
}

fn read_request(stream: &mut impl BufRead) -> io::Result<Option<Recorded>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let line = format!(
        "{} {}",
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default()
    );
    let (mut authorization, mut length) = (None, 0);
    loop {
        let mut header = String::new();
        stream.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = Some(value.trim().to_owned()),
            "content-length" => length = value.trim().parse().unwrap_or(0),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some(Recorded {
        line,
        authorization,
        body: String::from_utf8_lossy(&body).into_owned(),
    }))
}

/// Writes an answer, but not more of its body than `limit` bytes.
fn write_answer(stream: &mut impl Write, answer: &Answer, limit: usize) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if answer.status != 204 {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(&answer.body.as_bytes()[..limit.min(answer.body.len())])?;
    stream.flush()
}
