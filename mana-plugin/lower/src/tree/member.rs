//! A process of a tree that is not its root: its control thread does what the root asks through the
//! table. Lower half.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mana::spec::{LaunchSpec, Mode, OsText, VARIABLE};
use process_state::MemoryBlobs;
use split_process::tree::{self, Execute, Place, Table};
use split_process::{Hooks, Launch, ParkError, Parked, Region};

use super::record::{Kin, Member};
use super::{verb, wire, BEGUN, STEP, TABLE};
use crate::{control, image, interface, job, messages, notices, Failure};

/// What a program that a process of the tree executes needs beside the launch specification.
const MEMBER: &str = "MANA_TREE_MEMBER";
/// The program the job was begun with, if the root has executed another one in its place.
const BEGAN: &str = "MANA_TREE_BEGAN";
static BEGAN_WITH: OnceLock<PathBuf> = OnceLock::new();
/// How often a member sees whether its root still lives.
const LOOK: Duration = Duration::from_secs(1);
/// The same while it holds a signal back.
const SOON: Duration = Duration::from_millis(50);
/// Pause between two attempts to park a program that is being loaded.
const LOADING: Duration = Duration::from_millis(1);

/// See [`MEMBER`].
#[derive(Debug)]
pub struct Executed {
    /// The tree's table.
    table: PathBuf,
    /// The signal mask of the program.
    mask: u64,
    /// `argv[0]` as it was asked for.
    argv0: OsString,
}

/// Between the parts of [`MEMBER`]; not in the table's path.
const BETWEEN: u8 = b',';

impl Executed {
    fn encode(&self) -> Vec<u8> {
        let mask = self.mask.to_string();
        let parts = [
            self.table.as_os_str().as_bytes(),
            mask.as_bytes(),
            self.argv0.as_bytes(),
        ];
        parts.join(&BETWEEN)
    }

    fn decode(value: OsString) -> Option<Self> {
        let bytes = value.into_vec();
        let mut parts = bytes.splitn(3, |b| *b == BETWEEN);
        let mut next = || Some(OsString::from_vec(parts.next()?.to_vec()));
        Some(Self {
            table: next()?.into(),
            mask: next()?.to_str()?.parse().ok()?,
            argv0: next()?,
        })
    }
}

/// A member's part in the split process.
pub fn hooks() -> Hooks {
    Hooks {
        on_exit: None,
        on_execve: None,
        on_fork: Some(forked),
        on_execute: Some(execute),
    }
}

/// A child was forked: this is all there is of it.
pub fn forked() {
    split_process::set_hooks(hooks());
    if let Err(e) = begin() {
        // The checkpoint names it: it never parks.
        log::warn!("a forked process has no control thread: {e}");
    }
}

/// Starts the control thread.
pub fn begin() -> Result<(), Failure> {
    let (Some(table), Some(place)) = (tree::table(), tree::own()) else {
        return Err("this process is in no tree".into());
    };
    interface::close()?;
    notices::begin_in_member();
    split_process::with_signals_blocked(|| {
        std::thread::Builder::new()
            .name("mana-member".into())
            .spawn(move || {
                control::own_descriptors();
                serve(table, place);
            })
    })?;
    Ok(())
}

fn serve(table: &'static Table, place: &'static Place) {
    let mut parked = None;
    loop {
        let request = place.request();
        if request != place.answer() && request | verb::FAILED != place.answer() {
            match step(request, place, &mut parked) {
                Ok(()) => place.reply(request, ""),
                Err(text) => place.reply(request | verb::FAILED, &text),
            }
        }
        let look = if notices::attend(table) { SOON } else { LOOK };
        place.await_request(request, look);
        if table.is_orphaned() {
            // The rank was killed: so is the rest of it.
            // SAFETY: ends this process.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
    }
}

fn step(request: u32, place: &'static Place, parked: &mut Option<Parked>) -> Result<(), String> {
    let still = |parked: &Option<Parked>| match parked {
        Some(_) => Ok(()),
        None => Err("it does not stand still".to_owned()),
    };
    match request & ((1 << verb::BITS) - 1) {
        verb::PARK => {
            if parked.is_none() {
                *parked = Some(park(request, place)?);
            }
            Ok(())
        }
        verb::FILES => {
            still(parked)?;
            parked
                .as_ref()
                .map_or(Ok(()), |p| send_files(p).map_err(|e| e.to_string()))
        }
        verb::STATE => {
            still(parked)?;
            parked
                .as_ref()
                .map_or(Ok(()), |p| send_state(p, place).map_err(|e| e.to_string()))
        }
        _ => {
            *parked = None; // it runs on
            Ok(())
        }
    }
}

fn park(request: u32, place: &Place) -> Result<Parked, String> {
    let deadline = Instant::now() + STEP;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match split_process::park_all(left) {
            Ok(parked) => return Ok(parked),
            Err(ParkError::NotRunning) if !left.is_zero() && place.request() == request => {
                std::thread::sleep(LOADING); // the program is being loaded
            }
            Err(e) => return Err(e.to_string()),
        }
    }
}

/// Sends copies of the program's descriptors, from a thread that has them.
pub fn send_files(parked: &Parked) -> Result<(), Failure> {
    let address = tree::table().ok_or("there is no tree")?.address();
    let (sender, receiver) = channel();
    parked.run_on_main(Box::new(move || {
        let sent = image::own_descriptors()
            .and_then(|own| wire::send_descriptors(address, &own).map_err(Failure::from));
        let _ = sender.send(sent);
    }))?;
    receiver.recv()?
}

/// What [`Member`] says of this process.
pub fn state_of(parked: &Parked, place: &'static Place) -> Result<Member, Failure> {
    let (sender, receiver) = channel();
    parked.run_on_main(Box::new(move || {
        let mut blobs = MemoryBlobs::new();
        let captured = image::process_apart(&mut blobs);
        let both = captured.and_then(|state| Ok((state, blobs, Kin::of(place)?)));
        let _ = sender.send(both);
    }))?;
    let (state, blobs, kin) = receiver.recv()??;
    Ok(Member {
        kin,
        split: parked.state()?,
        state,
        blobs,
        regions: parked.regions()?,
    })
}

fn send_state(parked: &Parked, place: &'static Place) -> Result<(), Failure> {
    let address = tree::table().ok_or("there is no tree")?.address();
    let member = state_of(parked, place)?;
    let head = postcard::to_stdvec(&member)?;
    let runs = member.regions.iter().flat_map(|r: &Region| &r.runs);
    wire::send_state(address, &head, runs.map(|run| parked.memory(run)))?;
    Ok(())
}

/// A program that executes another one in its place so soon has done nothing yet that would be lost.
const ON_THE_WAY: Duration = Duration::from_secs(5);

/// What a process of the tree executes instead of `path`: this program, which starts it under
/// control; the root begins the job anew with it, as an incarnation without a parent. `None` if that cannot be controlled. May run in a child that borrows its parent's memory.
pub fn execute(
    path: &CStr,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
    mask: u64,
) -> Option<Execute> {
    let table = TABLE.get()?.clone();
    let in_place = tree::table()?.root() == std::process::id() as i32;
    if in_place && job().spec.coordinator.is_some() {
        return None; // it would take the lost connection for the rank's end
    }
    let mut program = path.to_bytes().to_vec();
    if !program.contains(&b'/') {
        program.splice(0..0, *b"./");
    }
    let program = PathBuf::from(OsString::from_vec(program));
    if !may_be_controlled(&program, 0) || is_apart(&program) {
        return None;
    }
    // SAFETY: what the program passed, as the kernel would read it.
    let (words, env) = unsafe { (strings(argv), strings(envp)) };
    let mut words = words.into_iter();
    let argv0 = OsString::from_vec(words.next().unwrap_or_default());
    let value = |name: &str| {
        let prefix = [name.as_bytes(), b"="].concat();
        let found = env.iter().find_map(|line| line.strip_prefix(&prefix[..]));
        found.map(|v| OsText(OsStr::from_bytes(v).to_owned()))
    };
    let spec = LaunchSpec {
        mode: Mode::Fresh,
        program,
        args: Some(words.map(|w| OsText(OsString::from_vec(w))).collect()),
        upper_ld_preload: value("LD_PRELOAD"),
        upper_ld_library_path: value("LD_LIBRARY_PATH"),
        ..job().spec.clone()
    };
    let ours = ["LD_PRELOAD", "LD_LIBRARY_PATH", VARIABLE, MEMBER, BEGAN];
    let kept = env.iter().filter(|line| {
        !ours.iter().any(|name| {
            line.strip_prefix(name.as_bytes())
                .is_some_and(|rest| rest.first() == Some(&b'='))
        })
    });
    let variable = |name: &str, value: &[u8]| [name.as_bytes(), b"=", value].concat();
    let launch = variable(VARIABLE, spec.to_variable().ok()?.as_bytes());
    let second = match in_place {
        true => variable(BEGAN, began_with().as_os_str().as_bytes()),
        false => variable(MEMBER, &Executed { table, mask, argv0 }.encode()),
    };
    if in_place {
        // A script on the way to the program (a version manager's) is no news.
        let young = BEGUN
            .get()
            .is_some_and(|begun| begun.elapsed() < ON_THE_WAY);
        log::log!(
            if young {
                log::Level::Debug
            } else {
                log::Level::Info
            },
            "the program executes {} in its place: the job begins anew with it",
            path.to_string_lossy()
        );
    }
    let env: Option<Vec<CString>> = kept
        .cloned()
        .chain([launch, second])
        .map(|line| CString::new(line).ok())
        .collect();
    Some(Execute {
        path: c"/proc/self/exe".to_owned(),
        argv: vec![c"mana-lower".to_owned()],
        env: env?,
    })
}

/// The strings of a null-terminated list; none for a null pointer.
///
/// # Safety
/// `list` is null or such a list of C strings.
unsafe fn strings(list: *const *const libc::c_char) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    if list.is_null() {
        return out;
    }
    loop {
        // SAFETY: within the list, whose end has not been met.
        let word = unsafe { *list.add(out.len()) };
        if word.is_null() {
            return out;
        }
        // SAFETY: a C string of the list.
        out.push(unsafe { CStr::from_ptr(word) }.to_bytes().to_vec());
    }
}

/// A first look: a dynamic program for this processor, or a script for one. What else there may be
/// against it shows when it is started, and it is then executed as it is.
fn may_be_controlled(path: &Path, depth: u32) -> bool {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let Ok(metadata) = std::fs::metadata(path) else {
        return false;
    };
    // SAFETY: a C string; the kernel answers for the effective rights.
    let executable = CString::new(path.as_os_str().as_bytes()).is_ok_and(|name| unsafe {
        libc::faccessat(libc::AT_FDCWD, name.as_ptr(), libc::X_OK, libc::AT_EACCESS) == 0
    });
    let special = metadata.permissions().mode() & 0o6000 != 0
        && (metadata.uid() != effective_user() || metadata.mode() & 0o2010 == 0o2010);
    if !metadata.is_file() || !executable || special || depth > 4 {
        return false;
    }
    let mut start = Vec::new();
    let read = std::fs::File::open(path).and_then(|f| f.take(4096).read_to_end(&mut start));
    if read.is_err() {
        return false;
    }
    if let Some(line) = start.strip_prefix(b"#!") {
        let end = line.iter().position(|b| *b == b'\n').unwrap_or(line.len());
        let mut words = line[..end].split(|b| b.is_ascii_whitespace());
        let interpreter = words.find(|w| !w.is_empty()).unwrap_or_default();
        return may_be_controlled(Path::new(OsStr::from_bytes(interpreter)), depth + 1);
    }
    is_dynamic(&start)
}

/// Programs that start processes which talk to each other over a network: a tree does not carry that.
const LAUNCHERS: &[&str] = &[
    "mpirun",
    "mpiexec",
    "orterun",
    "orted",
    "prterun",
    "prted",
    "hydra_pmi_proxy",
    "srun",
    "ssh",
];

/// Launchers of parallel jobs, and our own commands, which put what they start under control themselves.
fn is_apart(program: &Path) -> bool {
    let name = program
        .file_name()
        .and_then(OsStr::to_str)
        .unwrap_or_default();
    let base = name.split('.').next().unwrap_or_default();
    let Ok(own) = std::fs::read_link("/proc/self/exe") else {
        return true;
    };
    let home = own.ancestors().nth(3).unwrap_or(&own);
    let program = std::fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    LAUNCHERS.contains(&base)
        || program == home.join("bin/mana")
        || program.starts_with(home.join("lib/mana"))
}

/// Whether a program is linked with an MPI library: it would run without one of ours.
fn uses_mpi(needed: &[String]) -> bool {
    needed.iter().any(|library| library.starts_with("libmpi"))
}

fn effective_user() -> u32 {
    // SAFETY: no arguments.
    unsafe { libc::geteuid() }
}

/// Whether the first page of a file is that of a dynamic x86-64 program.
fn is_dynamic(start: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| Some(u16::from_le_bytes(start.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(start.get(at..at + 4)?.try_into().ok()?));
    if !start.starts_with(b"\x7fELF\x02\x01") || half(18) != Some(62) {
        return false;
    }
    let (Some(headers), Some(size), Some(count)) = (word(32), half(54), half(56)) else {
        return false;
    };
    let header = |i: u16| word(headers as usize + usize::from(size) * usize::from(i));
    (0..count).any(|i| header(i) == Some(PT_INTERP))
}

/// What a process of the tree has left in the environment for the program it executed; removed from
/// there. Before any other thread exists.
pub fn executed() -> Option<Executed> {
    if let Some(program) = std::env::var_os(BEGAN) {
        std::env::remove_var(BEGAN);
        BEGAN_WITH.get_or_init(|| program.into());
    }
    let value = std::env::var_os(MEMBER)?;
    std::env::remove_var(MEMBER);
    Executed::decode(value)
}

/// The program by which the user knows the job.
pub fn began_with() -> PathBuf {
    let known = BEGAN_WITH.get().unwrap_or(&job().spec.program);
    known.clone()
}

/// Starts what a process of the tree has executed. Returns why it could not be, by itself or plainly.
pub fn run(executed: &Executed) -> Failure {
    let spec = &job().spec;
    let joined = tree::join(&executed.table);
    let launch = Launch {
        program: spec.program.clone(),
        args: spec.args.iter().flatten().map(|a| a.0.clone()).collect(),
        env: spec.upper_environment(),
        mask: Some(executed.mask),
        ..Launch::default()
    };
    let resolved = launch.resolve();
    let (Ok(()), Ok(mut resolved)) = (joined, resolved) else {
        return plainly(executed);
    };
    if uses_mpi(&resolved.needed) {
        return plainly(executed);
    }
    // A script's path is its interpreter's to see.
    if resolved.program == spec.program {
        if let Some(first) = resolved.argv.first_mut() {
            first.clone_from(&executed.argv0);
        }
    }
    TABLE.get_or_init(|| executed.table.clone());
    messages::set_rank(0);
    set_name(&resolved.program);
    if let Err(e) = begin() {
        return e;
    }
    match split_process::start(resolved, hooks()) {
        Ok(never) => match never {},
        Err(e) => e.into(),
    }
}

/// What `ps` shows.
pub fn set_name(program: &Path) {
    let name = program.file_name().unwrap_or_default().as_bytes();
    if let Ok(name) = CString::new(name) {
        // SAFETY: a C string, which the kernel cuts.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    }
}

/// Executes the program as it is; a checkpoint names it.
fn plainly(executed: &Executed) -> Failure {
    let spec = &job().spec;
    if let Some(place) = tree::own() {
        place.set_plain(true);
    }
    let word = |text: &OsStr| CString::new(text.as_bytes());
    let argv = std::iter::once(&executed.argv0)
        .chain(spec.args.iter().flatten().map(|a| &a.0))
        .map(|a| word(a));
    let env = spec.upper_environment().into_iter().map(|(name, value)| {
        let line = [name.as_bytes(), b"=", value.as_bytes()].concat();
        CString::new(line)
    });
    let all = || -> Result<_, std::ffi::NulError> {
        Ok((
            word(spec.program.as_os_str())?,
            argv.collect::<Result<Vec<_>, _>>()?,
            env.collect::<Result<Vec<_>, _>>()?,
        ))
    };
    let (path, argv, env) = match all() {
        Ok(all) => all,
        Err(e) => return e.into(),
    };
    let pointers = |words: &[CString]| -> Vec<*const libc::c_char> {
        let all = words.iter().map(|w| w.as_ptr());
        all.chain(std::iter::once(std::ptr::null())).collect()
    };
    let (argv, env) = (pointers(&argv), pointers(&env));
    let mask = executed.mask;
    // SAFETY: the kernel reads the 8 bytes of the mask.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            std::ptr::null_mut::<u64>(),
            8,
        )
    };
    // SAFETY: null-terminated lists of C strings that live until then.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    let error = std::io::Error::last_os_error();
    // As a shell has it.
    messages::line(format_args!("{}: {error}", spec.program.display()));
    // SAFETY: ends this process, which has nothing to clean up.
    unsafe { libc::_exit(126) }
}
