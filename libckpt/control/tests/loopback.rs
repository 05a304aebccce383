//! Coordinator, agents and tools over real sockets on the loopback interface, with ranks that only
//! take notes.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use mana_control::{
    Agent, AgentOptions, CaptureStarted, Checkpoint, Client, CommSeq, ControlError, Coordinator,
    CoordinatorOptions, DrainReport, EndHow, GatePoll, GenerationId, ImageReport, Level, Outcome,
    RankHooks, Rendezvous, Request, Secret, Settings, Started, StepError,
};

const LIMIT: Duration = Duration::from_secs(20);

/// What a rank was asked to do, in order.
type Notes = Arc<Mutex<Vec<String>>>;

#[derive(Default)]
struct Script {
    /// This step fails in this generation.
    fail: Option<(&'static str, u64)>,
    /// The image never gets durable.
    never_durable: bool,
    /// Told when a write begins.
    writing: Option<Sender<()>>,
    /// Told when the job is to be ended.
    ended: Option<Sender<String>>,
}

struct Rank {
    rank: u32,
    notes: Notes,
    script: Script,
    now: u64,
    polls: u32,
}

impl Rank {
    fn note(&self, text: impl Into<String>) {
        self.notes.lock().expect("notes").push(text.into());
    }

    fn result<T>(&self, step: &'static str, good: T) -> Result<T, StepError> {
        self.note(step);
        match self.script.fail {
            Some((failing, number)) if failing == step && number == self.now => {
                Err(StepError::new(format!("{step} is broken")))
            }
            _ => Ok(good),
        }
    }
}

impl RankHooks for Rank {
    fn started(&mut self, facts: Started) {
        self.note(format!(
            "started {} {} {}",
            facts.ranks, facts.nodes, facts.leader
        ));
    }
    fn intent(&mut self, checkpoint: Checkpoint) -> Result<Vec<CommSeq>, StepError> {
        self.now = checkpoint.generation.number;
        self.polls = 0;
        let seq = u64::from(self.rank);
        self.result(
            "intent",
            vec![CommSeq {
                comm_id: 1,
                size: 1000,
                seq,
            }],
        )
    }
    fn targets(&mut self, targets: &[CommSeq]) {
        self.note(format!("targets {}", targets[0].seq));
    }
    fn poll(&mut self) -> GatePoll {
        self.polls += 1;
        GatePoll {
            reached: self.polls > 3,
            where_: "computing".into(),
            ..GatePoll::default()
        }
    }
    fn stop(&mut self) -> Result<(), StepError> {
        self.result("stop", ())
    }
    fn drain(&mut self) -> Result<DrainReport, StepError> {
        self.result("drain", DrainReport::default())
    }
    fn capture(&mut self, _: Checkpoint) -> Result<CaptureStarted, StepError> {
        self.polls = 0;
        self.result("capture", CaptureStarted::default())
    }
    fn resume(&mut self) {
        self.note("resume");
    }
    fn durable(&mut self) -> Poll<Result<ImageReport, StepError>> {
        self.polls += 1;
        if self.polls == 1 {
            if let Some(writing) = &self.script.writing {
                let _ = writing.send(());
            }
        }
        if self.polls < 4 || self.script.never_durable {
            return Poll::Pending;
        }
        Poll::Ready(self.result(
            "durable",
            ImageReport {
                rank: self.rank,
                bytes: 1 << 20,
                root: [self.rank as u8; 16],
            },
        ))
    }
    fn commit(
        &mut self,
        checkpoint: Checkpoint,
        images: Option<&[ImageReport]>,
    ) -> Result<(), StepError> {
        if let Some(images) = images {
            assert!(images
                .iter()
                .enumerate()
                .all(|(k, i)| i.rank == k as u32 && i.root == [k as u8; 16]));
        }
        self.note(format!(
            "manifest {} {}",
            checkpoint.generation.number,
            images.map_or(0, <[_]>::len)
        ));
        self.result("commit", ())
    }
    fn level_work(&mut self, _: GenerationId, level: Level) -> Result<(), StepError> {
        self.note(format!("work {level}"));
        Ok(())
    }
    fn level_poll(&mut self, _: GenerationId, _: Level) -> Poll<Result<(), StepError>> {
        Poll::Ready(Ok(()))
    }
    fn level_complete(&mut self, _: GenerationId, level: Level) -> Result<(), StepError> {
        self.note(format!("complete {level}"));
        Ok(())
    }
    fn prune(&mut self, _: &[GenerationId]) {
        self.note("prune");
    }
    fn abandon(&mut self, generation: GenerationId, reason: &str) {
        self.note(format!("abandon {} {reason}", generation.number));
    }
    fn undecided(&mut self, generation: GenerationId) {
        self.note(format!("undecided {}", generation.number));
    }
    fn finish(&mut self, outcome: &Outcome) {
        self.note(format!("finish {outcome:?}"));
    }
    fn end_job(&mut self, _: EndHow, reason: &str) {
        self.note(format!("end {reason}"));
        if let Some(ended) = &self.script.ended {
            let _ = ended.send(reason.to_owned());
        }
    }
}

struct Job {
    coordinator: Coordinator,
    agents: Vec<Agent>,
    notes: Vec<Notes>,
    rendezvous: Rendezvous,
}

fn coordinator_options(secret: &Secret) -> CoordinatorOptions {
    CoordinatorOptions {
        job: Some("4711".into()),
        incarnation: Some(3),
        secret: secret.clone(),
        bind: "127.0.0.1".into(),
        port: 0,
        settings: None,
        rendezvous: None,
        events: None,
        metrics: None,
        fd_floor: 400,
    }
}

fn agent_options(rank: u32, size: u32, rendezvous: &Rendezvous) -> AgentOptions {
    AgentOptions {
        job: "4711".into(),
        incarnation: 3,
        rank,
        size,
        host: "here".into(),
        node: rank / 2,
        program: "notes".into(),
        next_number: 5,
        resumed: None,
        settings: Settings {
            stopped_limit: Duration::from_secs(5),
            ..Settings::default()
        },
        addresses: rendezvous.addresses.clone(),
        secret: rendezvous.secret.clone(),
        connect_limit: LIMIT,
        rejoin_limit: Duration::ZERO,
        stand_alone: None,
        fd_floor: 400,
    }
}

impl Job {
    fn start(
        size: u32,
        options: CoordinatorOptions,
        mut script: impl FnMut(u32) -> Script,
    ) -> Self {
        let coordinator = Coordinator::spawn(options).expect("coordinator");
        let rendezvous = coordinator.rendezvous();
        let mut agents = Vec::new();
        let mut notes = Vec::new();
        for rank in 0..size {
            let mine = Notes::default();
            notes.push(Arc::clone(&mine));
            let hooks = Rank {
                rank,
                notes: mine,
                script: script(rank),
                now: 0,
                polls: 0,
            };
            agents.push(
                Agent::spawn(agent_options(rank, size, &rendezvous), Box::new(hooks))
                    .expect("agent"),
            );
        }
        Self {
            coordinator,
            agents,
            notes,
            rendezvous,
        }
    }

    fn client(&self) -> Client {
        let rendezvous = Rendezvous {
            job: "4711".into(),
            incarnation: 3,
            ..self.rendezvous.clone()
        };
        Client::connect(&rendezvous, LIMIT).expect("client")
    }

    fn notes(&self, rank: usize) -> Vec<String> {
        self.notes[rank].lock().expect("notes").clone()
    }

    /// Waits, bounded, until all ranks have noted `text`.
    fn await_note(&self, text: &str) {
        let deadline = Instant::now() + LIMIT;
        for rank in 0..self.notes.len() {
            while !self.notes(rank).iter().any(|note| note.contains(text)) {
                assert!(
                    Instant::now() < deadline,
                    "rank {rank} never noted {text:?}: {:?}",
                    self.notes(rank)
                );
                std::thread::yield_now();
            }
        }
    }

    fn end(self, code: i32) -> Vec<Outcome> {
        let coordinator = &self.coordinator;
        std::thread::scope(|scope| {
            let ends: Vec<_> = self
                .agents
                .iter()
                .map(|agent| scope.spawn(move || agent.exit(code, LIMIT)))
                .collect();
            let outcomes: Vec<Outcome> = ends
                .into_iter()
                .map(|end| end.join().expect("exit").expect("in time"))
                .collect();
            assert_eq!(coordinator.wait_end(LIMIT), outcomes[0]);
            outcomes
        })
    }
}

/// A rank tries the next address when one is silent, without waiting for its time to be over.
#[test]
fn a_rank_finds_its_coordinator_past_silent_addresses() {
    let listeners = [(); 5].map(|()| TcpListener::bind("127.0.0.1:0").expect("listen"));
    let secret = Secret::generate().expect("secret");
    let coordinator = Coordinator::spawn(coordinator_options(&secret)).expect("coordinator");
    let mut rendezvous = coordinator.rendezvous();
    for listener in &listeners {
        // Takes connections, and never answers.
        let address = listener.local_addr().expect("address").to_string();
        rendezvous.addresses.insert(0, address);
    }
    let hooks = Rank {
        rank: 0,
        notes: Notes::default(),
        script: Script::default(),
        now: 0,
        polls: 0,
    };
    let began = Instant::now();
    let agent = Agent::spawn(agent_options(0, 1, &rendezvous), Box::new(hooks)).expect("agent");
    let took = began.elapsed();
    let seconds = Duration::from_secs;
    // One after the other they would take 15 s.
    assert!(took > seconds(1) && took < seconds(12), "{took:?}");
    // They are still there: no second connection has taken the rank's place.
    let outcome = agent.exit(0, LIMIT).expect("in time");
    assert_eq!(outcome, Outcome::Finished);
}

fn by_hand(level: Level) -> Request {
    Request {
        level: Some(level),
        kill: false,
    }
}

#[test]
fn a_checkpoint_from_request_to_prune() {
    let secret = Secret::generate().expect("secret");
    let job = Job::start(4, coordinator_options(&secret), |_| Script::default());
    let mut client = job.client();
    job.await_note("started 4 2");
    let figures = client
        .checkpoint(by_hand(Level::Global), true, LIMIT)
        .expect("commit")
        .expect("figures");
    assert_eq!(
        figures.generation,
        GenerationId {
            incarnation: 3,
            number: 5
        }
    );
    assert_eq!(figures.bytes, 4 << 20);
    job.await_note("prune");
    for rank in 0..4 {
        let leader = rank % 2 == 0;
        let expected = [
            &format!("started 4 2 {leader}"),
            "intent",
            "targets 3",
            "stop",
            "drain",
            "capture",
            "resume",
            "durable",
            &format!("manifest 5 {}", if leader { 4 } else { 0 }),
            "commit",
            "complete local",
            "work partner",
            "complete partner",
            "work global",
            "complete global",
            "prune",
        ];
        assert_eq!(job.notes(rank), expected);
    }
    let status = client.status().expect("status");
    assert_eq!((status.due, status.committed, status.abandoned), (1, 1, 0));
    assert_eq!(
        (status.size, status.nodes, status.phase.as_str()),
        (4, 2, "running")
    );
    assert_eq!(status.ranks[3].pid, std::process::id());
    assert!(status.levels[3].last.is_some() && !status.levels[2].enabled);
    let denied = client
        .checkpoint(by_hand(Level::Group), true, LIMIT)
        .expect_err("not enabled");
    assert!(denied.to_string().contains("not enabled"), "{denied}");
    assert!(client.quit().is_err(), "embedded");

    for agent in &job.agents {
        let deadline = Instant::now() + LIMIT;
        while !agent.finalizing() {
            assert!(Instant::now() < deadline, "held in MPI_Finalize");
            std::thread::yield_now();
        }
    }
    let denied = client
        .checkpoint(by_hand(Level::Local), true, LIMIT)
        .expect_err("too late");
    assert!(denied.to_string().contains("MPI_Finalize"), "{denied}");
    assert_eq!(job.end(0), vec![Outcome::Finished; 4]);
}

#[test]
fn a_failed_step_leaves_the_job_running() {
    let secret = Secret::generate().expect("secret");
    let job = Job::start(3, coordinator_options(&secret), |rank| Script {
        fail: (rank == 1).then_some(("drain", 5)),
        ..Script::default()
    });
    let mut client = job.client();
    job.await_note("started");
    let error = client
        .checkpoint(by_hand(Level::Local), true, LIMIT)
        .expect_err("abandoned");
    assert!(
        error
            .to_string()
            .contains("rank 1 on here: drain is broken"),
        "{error}"
    );
    job.await_note("abandon 5");
    client
        .checkpoint(by_hand(Level::Local), true, LIMIT)
        .expect("the next one");
    let status = client.status().expect("status");
    assert_eq!((status.due, status.committed, status.abandoned), (2, 1, 1));
    let outcomes = job.end(3);
    // Whichever rank came first.
    assert!(
        matches!(outcomes[0], Outcome::Failed { code: 3, .. }),
        "{outcomes:?}"
    );
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]));
}

#[test]
fn a_lost_rank_abandons_and_its_peers_go_on() {
    let secret = Secret::generate().expect("secret");
    let (writing, begun): (Sender<()>, Receiver<()>) = channel();
    let mut job = Job::start(3, coordinator_options(&secret), |rank| Script {
        never_durable: rank == 2,
        writing: (rank == 2).then(|| writing.clone()),
        ..Script::default()
    });
    let mut client = job.client();
    job.await_note("started");
    client
        .checkpoint(by_hand(Level::Local), false, LIMIT)
        .expect("accepted");
    begun.recv_timeout(LIMIT).expect("rank 2 writes");
    job.agents.pop();
    let (lost, _) = (job.notes.pop(), ());
    job.await_note("abandon 5 rank 2 on here is gone");
    drop(lost);
    let status = client.status().expect("status");
    assert_eq!(status.ranks[2].state, "lost");
    let denied = client
        .checkpoint(by_hand(Level::Local), true, LIMIT)
        .expect_err("incomplete");
    assert!(denied.to_string().contains("rank 2"), "{denied}");
    assert_eq!(job.end(0), vec![Outcome::Lost { rank: 2 }; 2]);
}

#[test]
fn scheduled_checkpoints_and_the_end_of_the_coordinator() {
    let secret = Secret::generate().expect("secret");
    let settings = Settings {
        intervals: [Some(Duration::from_millis(20)), None, None, None],
        ..Settings::default()
    };
    let options = CoordinatorOptions {
        settings: Some(settings),
        ..coordinator_options(&secret)
    };
    let job = Job::start(2, options, |_| Script::default());
    job.await_note("manifest 7");
    job.client()
        .set_interval(Level::Local, None)
        .expect("stopped");
    let Job {
        coordinator,
        agents,
        ..
    } = job;
    coordinator.shutdown();
    let deadline = Instant::now() + LIMIT;
    for agent in &agents {
        while agent.is_connected() {
            assert!(Instant::now() < deadline, "still connected");
            std::thread::yield_now();
        }
        assert!(agent.finalizing(), "nobody holds it any more");
        assert_eq!(agent.exit(0, LIMIT), Some(Outcome::Undecided));
    }
}

#[test]
fn kill_reaches_every_rank() {
    let secret = Secret::generate().expect("secret");
    let (ended, ends) = channel();
    let job = Job::start(2, coordinator_options(&secret), |_| Script {
        ended: Some(ended.clone()),
        ..Script::default()
    });
    job.await_note("started");
    let mut client = job.client();
    client
        .checkpoint(
            Request {
                level: None,
                kill: true,
            },
            true,
            LIMIT,
        )
        .expect("committed");
    for _ in 0..2 {
        assert!(ends
            .recv_timeout(LIMIT)
            .expect("ended")
            .contains("last checkpoint"));
    }
    job.await_note("complete global");
    assert_eq!(job.end(143), vec![Outcome::Killed; 2]);
}

#[test]
fn strangers_are_refused() {
    let secret = Secret::generate().expect("secret");
    let job = Job::start(1, coordinator_options(&secret), |_| Script::default());
    let good = Rendezvous {
        job: "4711".into(),
        incarnation: 3,
        ..job.rendezvous.clone()
    };
    let wrong = [
        Rendezvous {
            secret: Secret::from_bytes([0; 32]),
            ..good.clone()
        },
        Rendezvous {
            job: "4712".into(),
            ..good.clone()
        },
        Rendezvous {
            incarnation: 2,
            ..good.clone()
        },
    ];
    for rendezvous in wrong {
        let error = Client::connect(&rendezvous, LIMIT).expect_err("refused");
        let (expected, words) = match rendezvous.secret == good.secret {
            true => (
                matches!(error, ControlError::Denied { .. }),
                "it coordinates",
            ),
            false => (matches!(error, ControlError::Unreachable { .. }), "secret"),
        };
        assert!(expected && error.to_string().contains(words), "{error}");
    }
    // A second rank 0, and a job of another size.
    let hooks = || {
        Box::new(Rank {
            rank: 0,
            notes: Notes::default(),
            script: Script::default(),
            now: 0,
            polls: 0,
        })
    };
    for size in [1, 2] {
        let error = Agent::spawn(agent_options(0, size, &good), hooks()).expect_err("denied");
        assert!(matches!(error, ControlError::Denied { .. }), "{error}");
    }
    // Noise, an oversized length, and silence: all are dropped, the silent one after its time.
    let address = &good.addresses[0];
    for noise in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        &[0xff; 64],
        &[4, 0, 0, 0, 1, 2, 3, 4],
        b"",
    ] {
        let mut stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(LIMIT)).expect("timeout");
        stream.write_all(noise).expect("write");
        let mut rest = Vec::new();
        // Dropped: the end of the stream, or a reset if it had not read everything.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "answered {rest:?}");
    }
    assert_eq!(
        Client::connect(&good, LIMIT)
            .expect("the owner")
            .status()
            .expect("status")
            .size,
        1
    );
}

#[test]
fn the_rendezvous_file_comes_and_goes() {
    let dir = tempfile::tempdir().expect("directory");
    let path = Rendezvous::path(dir.path(), "4711");
    std::fs::create_dir(dir.path().join("4711")).expect("job directory");
    let secret = Secret::generate().expect("secret");
    let options = CoordinatorOptions {
        rendezvous: Some(path.clone()),
        ..coordinator_options(&secret)
    };
    let coordinator = Coordinator::spawn(options).expect("coordinator");
    let found = Rendezvous::read(&path).expect("file");
    assert_eq!(found, coordinator.rendezvous());
    assert_eq!(
        Client::connect(&found, LIMIT)
            .expect("tool")
            .status()
            .expect("status")
            .phase,
        "starting"
    );
    coordinator.shutdown();
    assert!(matches!(
        Rendezvous::read(&path),
        Err(ControlError::NoRendezvous { .. })
    ));
    assert!(Client::connect(&found, Duration::from_millis(200)).is_err());
}

#[test]
fn a_stand_alone_coordinator_serves_one_job_after_the_other() {
    let secret = Secret::generate().expect("secret");
    let options = CoordinatorOptions {
        job: None,
        incarnation: None,
        ..coordinator_options(&secret)
    };
    let coordinator = Coordinator::spawn(options).expect("coordinator");
    let rendezvous = coordinator.rendezvous();
    for incarnation in [1, 2] {
        let options = AgentOptions {
            incarnation,
            ..agent_options(0, 1, &rendezvous)
        };
        let notes = Notes::default();
        let hooks = Rank {
            rank: 0,
            notes,
            script: Script::default(),
            now: 0,
            polls: 0,
        };
        let agent = Agent::spawn(options, Box::new(hooks)).expect("agent");
        let mut client = Client::connect(&rendezvous, LIMIT).expect("tool");
        client
            .checkpoint(by_hand(Level::Local), true, LIMIT)
            .expect("commit");
        let status = client.status().expect("status");
        assert_eq!(
            (status.job.as_str(), status.incarnation, status.committed),
            ("4711", incarnation, 1)
        );
        assert_eq!(agent.exit(0, LIMIT), Some(Outcome::Finished));
        drop(agent);
        let deadline = Instant::now() + LIMIT;
        while client.status().expect("status").phase != "ended" {
            assert!(Instant::now() < deadline, "the rank has gone");
            std::thread::yield_now();
        }
    }
    let mut client = Client::connect(&rendezvous, LIMIT).expect("tool");
    client.quit().expect("stand-alone");
    let deadline = Instant::now() + LIMIT;
    while !coordinator.has_stopped() {
        assert!(Instant::now() < deadline, "asked to stop");
        std::thread::yield_now();
    }
}

#[test]
fn sixty_four_ranks_back_to_back() {
    let secret = Secret::generate().expect("secret");
    let job = Job::start(64, coordinator_options(&secret), |_| Script::default());
    let mut client = job.client();
    job.await_note("started 64 32");
    let began = Instant::now();
    for number in 5..15 {
        let figures = client
            .checkpoint(by_hand(Level::Local), true, LIMIT)
            .expect("commit")
            .expect("figures");
        assert_eq!(
            (figures.generation.number, figures.bytes),
            (number, 64 << 20)
        );
    }
    println!("10 checkpoints of 64 ranks in {:?}", began.elapsed());
    assert_eq!(job.end(0), vec![Outcome::Finished; 64]);
}
