//! A lost connection: through a relay that can be cut, and with a stand-alone coordinator that is
//! started again.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use mana_control::{
    Agent, AgentOptions, CaptureStarted, Checkpoint, Client, CommSeq, Coordinator,
    CoordinatorOptions, DrainReport, EndHow, GatePoll, GenerationId, GenerationStatus, ImageReport,
    Level, Outcome, RankHooks, Request, Secret, Settings, StepError,
};

const LIMIT: Duration = Duration::from_secs(20);

/// A rank that tells what the connection does.
struct Rank(Sender<String>, Writing);

/// How long a rank writes, and whether it tells what becomes of it.
#[derive(Clone, Copy, PartialEq)]
enum Writing {
    AtOnce,
    AtOnceAndTold,
    ForEver,
}

impl Rank {
    fn tell(&self, text: impl Into<String>) {
        // A test that has failed does not listen any more.
        let _ = self.0.send(text.into());
    }
}

impl RankHooks for Rank {
    fn intent(&mut self, _: Checkpoint) -> Result<Vec<CommSeq>, StepError> {
        Ok(Vec::new())
    }
    fn targets(&mut self, _: &[CommSeq]) {}
    fn poll(&mut self) -> GatePoll {
        GatePoll {
            reached: true,
            ..GatePoll::default()
        }
    }
    fn stop(&mut self) -> Result<(), StepError> {
        Ok(())
    }
    fn drain(&mut self) -> Result<DrainReport, StepError> {
        Ok(DrainReport::default())
    }
    fn capture(&mut self, _: Checkpoint) -> Result<CaptureStarted, StepError> {
        Ok(CaptureStarted::default())
    }
    fn resume(&mut self) {}
    fn durable(&mut self) -> Poll<Result<ImageReport, StepError>> {
        match self.1 {
            Writing::ForEver => return Poll::Pending,
            Writing::AtOnceAndTold => self.tell("durable"),
            Writing::AtOnce => {}
        }
        Poll::Ready(Ok(ImageReport::default()))
    }
    fn commit(&mut self, _: Checkpoint, _: Option<&[ImageReport]>) -> Result<(), StepError> {
        Ok(())
    }
    fn level_work(&mut self, _: GenerationId, _: Level) -> Result<(), StepError> {
        Ok(())
    }
    fn level_poll(&mut self, _: GenerationId, _: Level) -> Poll<Result<(), StepError>> {
        Poll::Ready(Ok(()))
    }
    fn level_complete(&mut self, _: GenerationId, _: Level) -> Result<(), StepError> {
        Ok(())
    }
    fn prune(&mut self, _: &[GenerationId]) {}
    fn coordinator_lost(&mut self, _: &str, _: Duration) {
        self.tell("lost");
    }
    fn coordinator_back(&mut self) {
        self.tell("back");
    }
    fn coordinator_gone(&mut self, reason: &str) {
        self.tell(format!("gone: {reason}"));
    }
    fn signal_over(&mut self, signal: i32) {
        self.tell(format!("signal {signal}"));
    }
    fn abandon(&mut self, _: GenerationId, _: &str) {
        if self.1 != Writing::AtOnce {
            self.tell("abandoned");
        }
    }
    fn undecided(&mut self, _: GenerationId) {
        self.tell("undecided");
    }
    fn end_job(&mut self, _: EndHow, _: &str) {}
}

fn options(rank: u32, coordinator: &Coordinator, limit: Duration) -> AgentOptions {
    let rendezvous = coordinator.rendezvous();
    AgentOptions {
        job: "4711".into(),
        incarnation: 1,
        rank,
        size: 2,
        host: "here".into(),
        node: rank,
        program: "test".into(),
        next_number: 1,
        resumed: None,
        settings: Settings::default(),
        addresses: rendezvous.addresses,
        secret: rendezvous.secret,
        connect_limit: LIMIT,
        rejoin_limit: limit,
        stand_alone: None,
        fd_floor: 0,
    }
}

fn spawn(options: AgentOptions) -> (Agent, Receiver<String>) {
    spawn_writing(options, Writing::AtOnce)
}

fn spawn_writing(options: AgentOptions, writing: Writing) -> (Agent, Receiver<String>) {
    let (sender, told) = channel();
    let agent = Agent::spawn(options, Box::new(Rank(sender, writing))).expect("agent");
    (agent, told)
}

fn coordinator(port: u16, stand_alone: bool, file: Option<&Path>) -> Coordinator {
    Coordinator::spawn(CoordinatorOptions {
        job: (!stand_alone).then(|| "4711".into()),
        incarnation: (!stand_alone).then_some(1),
        secret: Secret::generate().expect("secret"),
        bind: "127.0.0.1".into(),
        port,
        settings: None,
        rendezvous: file.map(Path::to_owned),
        events: None,
        metrics: None,
        fd_floor: 0,
    })
    .expect("coordinator")
}

/// Until the coordinator takes one (it refuses while a rank is missing).
fn checkpoint(coordinator: &Coordinator) -> GenerationStatus {
    ask(coordinator, true).expect("waited for")
}

/// The same, and its end is waited for or not.
fn ask(coordinator: &Coordinator, wait: bool) -> Option<GenerationStatus> {
    let request = Request {
        level: Some(Level::Local),
        kill: false,
    };
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut rendezvous = coordinator.rendezvous();
        rendezvous.job = "4711".into();
        rendezvous.incarnation = 1;
        let mut client = Client::connect(&rendezvous, LIMIT).expect("tool");
        match client.checkpoint(request, wait, LIMIT) {
            Ok(taken) => return taken,
            Err(e) => assert!(Instant::now() < deadline, "{e}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Passes bytes on until it is cut; may be mended.
struct Relay {
    address: String,
    state: Arc<Mutex<(bool, Vec<TcpStream>)>>,
}

impl Relay {
    fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("address").to_string();
        let state = Arc::new(Mutex::new((false, Vec::new())));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let far = TcpStream::connect(("127.0.0.1", target)).expect("target");
                let Ok(mut guard) = shared.lock() else { return };
                if guard.0 {
                    continue; // cut: both ends are dropped
                }
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone(), to.try_clone());
                    let (from, to) = (from.expect("clone"), to.expect("clone"));
                    std::thread::spawn(move || copy(from, to));
                }
                guard.1.extend([near, far]);
            }
        });
        Self { address, state }
    }

    fn set_cut(&self, cut: bool) {
        let mut guard = self.state.lock().expect("relay");
        guard.0 = cut;
        for stream in guard.1.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn hear(told: &Receiver<String>) -> String {
    told.recv_timeout(LIMIT).expect("told")
}

#[test]
fn a_cut_that_heals_costs_nothing_but_time() {
    let coordinator = coordinator(0, false, None);
    let relay = Relay::to(coordinator.port());
    let (first, _told) = spawn(options(0, &coordinator, LIMIT));
    let mut far = options(1, &coordinator, LIMIT);
    far.addresses = vec![relay.address.clone()];
    let (second, told) = spawn(far);
    assert_eq!(checkpoint(&coordinator).generation.number, 1);

    relay.set_cut(true);
    assert_eq!(hear(&told), "lost");
    assert!(second.is_connected(), "still hoping");
    relay.set_cut(false);
    assert_eq!(hear(&told), "back");
    assert_eq!(checkpoint(&coordinator).generation.number, 2);

    // The end is known as if nothing had happened.
    let ends = [first, second].map(|agent| std::thread::spawn(move || agent.exit(0, LIMIT)));
    for end in ends {
        assert_eq!(end.join().expect("ended"), Some(Outcome::Finished));
    }
}

/// What is on stable storage may have been committed by others: it is not deleted without the coordinator's word.
#[test]
fn a_cut_before_the_commit_leaves_what_is_durable() {
    let coordinator = coordinator(0, false, None);
    let ranks = [Writing::ForEver, Writing::AtOnceAndTold].map(|writing| {
        let relay = Relay::to(coordinator.port());
        let rank = u32::from(writing == Writing::AtOnceAndTold);
        let mut far = options(rank, &coordinator, LIMIT);
        far.addresses = vec![relay.address.clone()];
        (relay, spawn_writing(far, writing))
    });
    ask(&coordinator, false);
    assert_eq!(hear(&ranks[1].1 .1), "durable");
    // The durable one first: the other's loss makes the coordinator give up, and it must not hear of it.
    for (relay, _) in ranks.iter().rev() {
        relay.set_cut(true);
    }
    for ((_, (_, told)), what) in ranks.iter().zip(["abandoned", "undecided"]) {
        assert_eq!([hear(told), hear(told)], [what, "lost"]);
    }
}

/// Rank 0 has ended and is out of reach when the last rank ends: it comes back, and records the end.
#[test]
fn a_cut_of_rank_0_at_the_end_is_waited_for() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("coordinator.json");
    let coordinator = coordinator(0, true, Some(&file));
    let relay = Relay::to(coordinator.port());
    let mut far = options(0, &coordinator, LIMIT);
    far.addresses = vec![relay.address.clone()];
    // A stand-alone coordinator may come back, so that a rank that has ended looks for it.
    far.stand_alone = Some(directory.path().join("none"));
    let (first, told) = spawn(far);
    let (second, _) = spawn(options(1, &coordinator, LIMIT));
    checkpoint(&coordinator);
    assert_eq!(
        first.exit(0, Duration::from_millis(200)),
        None,
        "the other runs"
    );
    relay.set_cut(true);
    assert_eq!(hear(&told), "lost");
    let ends = [first, second].map(|agent| std::thread::spawn(move || agent.exit(0, LIMIT)));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!ends[1].is_finished(), "nobody has recorded the end");
    relay.set_cut(false);
    assert_eq!(hear(&told), "back");
    for end in ends {
        assert_eq!(end.join().expect("ended"), Some(Outcome::Finished));
    }
}

#[test]
fn a_signal_during_a_cut_is_not_held_back() {
    let coordinator = coordinator(0, false, None);
    let relay = Relay::to(coordinator.port());
    let (_first, _) = spawn(options(0, &coordinator, LIMIT));
    let mut far = options(1, &coordinator, LIMIT);
    far.addresses = vec![relay.address.clone()];
    let (second, told) = spawn(far);
    checkpoint(&coordinator);
    relay.set_cut(true);
    assert_eq!(hear(&told), "lost");
    second.signal(15);
    assert_eq!(hear(&told), "signal 15");
    relay.set_cut(false);
    assert_eq!(hear(&told), "back");
}

/// Two ranks, of which the second has looked for its coordinator in vain, after one checkpoint.
fn cut_off() -> (Relay, Coordinator, [Agent; 2], Receiver<String>) {
    let coordinator = coordinator(0, false, None);
    let relay = Relay::to(coordinator.port());
    let (first, _) = spawn(options(0, &coordinator, LIMIT));
    let mut far = options(1, &coordinator, Duration::from_millis(400));
    far.addresses = vec![relay.address.clone()];
    let (second, told) = spawn(far);
    checkpoint(&coordinator);
    relay.set_cut(true);
    assert_eq!(hear(&told), "lost");
    assert!(hear(&told).starts_with("gone: "));
    assert!(!second.is_connected());
    (relay, coordinator, [first, second], told)
}

#[test]
fn a_cut_that_does_not_heal_is_told_in_time() {
    let (_relay, _coordinator, [_first, second], told) = cut_off();
    assert!(second.finalizing(), "nobody holds it any more");
    assert_eq!(second.exit(0, LIMIT), Some(Outcome::Undecided));
    assert!(told.try_recv().is_err(), "told once");
}

/// The program runs unprotected, and is protected again once the network is mended.
#[test]
fn a_cut_that_heals_late_is_noticed() {
    let (relay, coordinator, [first, second], told) = cut_off();
    assert_eq!(coordinator.status().expect("asked").phase, "unprotected");
    relay.set_cut(false);
    assert_eq!(hear(&told), "back");
    assert_eq!(checkpoint(&coordinator).generation.number, 2);
    assert!(second.is_connected());
    let ends = [first, second].map(|agent| std::thread::spawn(move || agent.exit(0, LIMIT)));
    for end in ends {
        assert_eq!(end.join().expect("ended"), Some(Outcome::Finished));
    }
}

#[test]
fn a_coordinator_that_is_started_again_is_found() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("coordinator.json");
    let old = coordinator(0, true, Some(&file));
    let port = old.port();
    let ranks = [0, 1].map(|rank| {
        let mut options = options(rank, &old, LIMIT);
        options.stand_alone = Some(file.clone());
        spawn(options)
    });
    assert_eq!(checkpoint(&old).generation.number, 1);
    old.shutdown();
    for (_, told) in &ranks {
        assert_eq!(hear(told), "lost");
    }
    // It has another secret.
    let new = coordinator(port, true, Some(&file));
    for (_, told) in &ranks {
        assert_eq!(hear(told), "back");
    }
    assert_eq!(checkpoint(&new).generation.number, 2, "numbers go on");
    let ends = ranks.map(|(agent, _)| std::thread::spawn(move || agent.exit(0, LIMIT)));
    for end in ends {
        assert_eq!(end.join().expect("ended"), Some(Outcome::Finished));
    }
}

#[test]
fn an_end_during_the_search_is_not_delayed() {
    let coordinator = coordinator(0, false, None);
    let (_first, _) = spawn(options(0, &coordinator, LIMIT));
    let (second, told) = spawn(options(1, &coordinator, Duration::from_secs(600)));
    checkpoint(&coordinator);
    coordinator.shutdown();
    assert_eq!(hear(&told), "lost");
    assert_eq!(second.exit(0, LIMIT), Some(Outcome::Undecided));
    match told.recv_timeout(Duration::from_millis(10)) {
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        Ok(text) => panic!("{text}"),
    }
}
