//! The [`Disk`] as a SQLite file system layer.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::size_of;
use std::slice;
use std::sync::Mutex;

use rusqlite::ffi;

use crate::disk::{Disk, Failure, State};

/// Shared memory of the write-ahead log's index, by file: lives in the process, so a crash takes it along.
static SHARED: Mutex<BTreeMap<(usize, u64), Vec<Region>>> = Mutex::new(BTreeMap::new());

struct Region(*mut u8, usize);

// SAFETY: the memory is only reached through SQLite, which orders accesses by its own locks.
unsafe impl Send for Region {}

/// What SQLite allocates for an open file: its base, then ours.
#[repr(C)]
struct OpenFile {
    base: ffi::sqlite3_file,
    disk: *const Disk,
    file: u64,
    handle: u64,
    /// A log or journal: its first sync makes its name durable too, as SQLite's own layer does.
    sync_names: bool,
    nameless: bool,
}

/// Makes `disk` known to SQLite as `name`, for the life of the process.
pub fn register(name: &str, disk: &'static Disk) {
    let name = CString::new(name).expect("a name without NUL").into_raw();
    let vfs = ffi::sqlite3_vfs {
        iVersion: 1,
        szOsFile: c_int::try_from(size_of::<OpenFile>()).expect("a small size"),
        mxPathname: 512,
        pNext: std::ptr::null_mut(),
        zName: name,
        pAppData: std::ptr::from_ref(disk).cast_mut().cast(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: None,
        xCurrentTimeInt64: None,
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    };
    let vfs = Box::leak(Box::new(vfs));
    // SAFETY: the structure and all that it points to live as long as the process.
    let result = unsafe { ffi::sqlite3_vfs_register(vfs, 0) };
    assert_eq!(result, ffi::SQLITE_OK, "the layer is registered");
}

/// The disk behind a layer.
///
/// # Safety
/// `vfs` must be one that [`register`] made.
unsafe fn disk_of<'a>(vfs: *mut ffi::sqlite3_vfs) -> &'a Disk {
    // SAFETY: `register` stored a reference to a disk that lives as long as the process.
    unsafe { &*(*vfs).pAppData.cast::<Disk>() }
}

/// Our part of an open file.
///
/// # Safety
/// `file` must be one that [`open`] set up, and not be closed.
unsafe fn opened<'a>(file: *mut ffi::sqlite3_file) -> &'a mut OpenFile {
    // SAFETY: SQLite allocated `szOsFile` bytes, which `open` filled with an `OpenFile`; one thread uses it at a time.
    unsafe { &mut *file.cast::<OpenFile>() }
}

impl OpenFile {
    fn state(&self) -> std::sync::MutexGuard<'static, State> {
        // SAFETY: the disk lives as long as the process.
        unsafe { &*self.disk }.state()
    }

    fn key(&self) -> (usize, u64) {
        (self.disk as usize, self.file)
    }
}

/// The text of a path that SQLite gives.
///
/// # Safety
/// `name` must be null or a NUL-terminated string.
unsafe fn text(name: *const c_char) -> Option<String> {
    // SAFETY: as the caller promises.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes the layer that it was given, a valid name or null, and room for our file.
    let (disk, name) = unsafe { (disk_of(vfs), text(name)) };
    // SAFETY: `file` has room for a `sqlite3_file`; a null method table means that nothing is to be closed.
    unsafe { (*file).pMethods = std::ptr::null() };
    let mut state = disk.state();
    let nameless = name.is_none();
    let id = match &name {
        None => state.make_nameless(),
        Some(name) => match state.find(name) {
            Some(id) => id,
            None if flags & ffi::SQLITE_OPEN_CREATE != 0 => state.make(name),
            None => return ffi::SQLITE_CANTOPEN,
        },
    };
    let handle = state.new_handle();
    let sync_names = flags & (ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL) != 0;
    let base = ffi::sqlite3_file { pMethods: &raw const METHODS };
    // SAFETY: SQLite allocated `szOsFile` bytes at `file` and `out_flags` is null or valid.
    unsafe {
        file.cast::<OpenFile>().write(OpenFile { base, disk, file: id, handle, sync_names, nameless });
        if !out_flags.is_null() {
            *out_flags = flags;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: SQLite passes the layer that it was given and a valid name.
    let (disk, name) = unsafe { (disk_of(vfs), text(name)) };
    let mut state = disk.state();
    if !state.remove(&name.unwrap_or_default()) {
        return ffi::SQLITE_IOERR_DELETE_NOENT;
    }
    if sync != 0 {
        state.sync_names();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    _flags: c_int,
    result: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes the layer that it was given, a valid name, and a place for the answer.
    unsafe {
        let name = text(name).unwrap_or_default();
        *result = c_int::from(disk_of(vfs).state().find(&name).is_some());
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite passes a NUL-terminated name, and `room` bytes at `out`; the length is checked against them.
    unsafe {
        let bytes = CStr::from_ptr(name).to_bytes_with_nul();
        if bytes.len() > usize::try_from(room).unwrap_or(0) {
            return ffi::SQLITE_CANTOPEN;
        }
        std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len());
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn randomness(vfs: *mut ffi::sqlite3_vfs, count: c_int, out: *mut c_char) -> c_int {
    let length = usize::try_from(count).unwrap_or(0);
    // SAFETY: SQLite passes the layer that it was given and `count` bytes at `out`.
    let (disk, out) = unsafe { (disk_of(vfs), slice::from_raw_parts_mut(out.cast::<u8>(), length)) };
    let mut state = disk.state();
    out.iter_mut().for_each(|byte| *byte = state.next_random().to_be_bytes()[1]);
    count
}

unsafe extern "C" fn sleep(_vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    microseconds
}

unsafe extern "C" fn current_time(_vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: SQLite passes a place for the answer. The time itself matters to nobody here.
    unsafe { *out = 2_460_000.5 };
    ffi::SQLITE_OK
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: `METHODS` is only ever set by `open`.
    let file = unsafe { opened(file) };
    let mut state = file.state();
    if let Some(found) = state.files.get_mut(&file.file) {
        found.locks.levels.remove(&file.handle);
    }
    if file.nameless {
        state.files.remove(&file.file);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    out: *mut c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let amount = usize::try_from(amount).unwrap_or(0);
    // SAFETY: `METHODS` is only ever set by `open`; SQLite gives `amount` bytes at `out`.
    let (file, out) = unsafe { (opened(file), slice::from_raw_parts_mut(out.cast::<u8>(), amount)) };
    let state = file.state();
    let content = state.files.get(&file.file).map(|file| file.live.as_slice()).unwrap_or_default();
    let begin = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
    let end = begin.saturating_add(amount).min(content.len());
    let found = &content[begin..end];
    out[..found.len()].copy_from_slice(found);
    out[found.len()..].fill(0);
    if found.len() == amount { ffi::SQLITE_OK } else { ffi::SQLITE_IOERR_SHORT_READ }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    data: *const c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let amount = usize::try_from(amount).unwrap_or(0);
    // SAFETY: `METHODS` is only ever set by `open`; SQLite gives `amount` bytes at `data`.
    let (file, data) = unsafe { (opened(file), slice::from_raw_parts(data.cast::<u8>(), amount)) };
    let offset = usize::try_from(offset).unwrap_or(0);
    code(file.state().write(file.file, offset, data))
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    // SAFETY: `METHODS` is only ever set by `open`.
    let file = unsafe { opened(file) };
    file.state().truncate(file.file, usize::try_from(size).unwrap_or(0));
    ffi::SQLITE_OK
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: `METHODS` is only ever set by `open`.
    let file = unsafe { opened(file) };
    let mut state = file.state();
    let result = state.sync(file.file);
    if result.is_ok() && std::mem::take(&mut file.sync_names) {
        state.sync_names();
    }
    code(result)
}

fn code(result: Result<(), Failure>) -> c_int {
    match result {
        Ok(()) => ffi::SQLITE_OK,
        Err(Failure::NoSpace) => ffi::SQLITE_FULL,
        Err(Failure::Sync) => ffi::SQLITE_IOERR_FSYNC,
    }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, out: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: `METHODS` is only ever set by `open`; SQLite gives a place for the answer.
    unsafe {
        let file = opened(file);
        let size = file.state().files.get(&file.file).map_or(0, |file| file.live.len());
        *out = i64::try_from(size).unwrap_or(i64::MAX);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: `METHODS` is only ever set by `open`.
    let file = unsafe { opened(file) };
    let mut state = file.state();
    let Some(found) = state.files.get_mut(&file.file) else { return ffi::SQLITE_IOERR_LOCK };
    let others = found.locks.levels.iter().filter(|(handle, _)| **handle != file.handle);
    let highest = others.map(|(_, level)| *level).max().unwrap_or(ffi::SQLITE_LOCK_NONE);
    let allowed = match level {
        ffi::SQLITE_LOCK_SHARED => ffi::SQLITE_LOCK_RESERVED,
        ffi::SQLITE_LOCK_EXCLUSIVE => ffi::SQLITE_LOCK_NONE,
        _ => ffi::SQLITE_LOCK_SHARED,
    };
    if highest > allowed {
        return ffi::SQLITE_BUSY;
    }
    found.locks.levels.insert(file.handle, level);
    ffi::SQLITE_OK
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: `METHODS` is only ever set by `open`.
    let file = unsafe { opened(file) };
    if let Some(found) = file.state().files.get_mut(&file.file) {
        found.locks.levels.insert(file.handle, level);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: `METHODS` is only ever set by `open`; SQLite gives a place for the answer.
    unsafe {
        let file = opened(file);
        let state = file.state();
        let levels = state.files.get(&file.file).map(|file| &file.locks.levels);
        let held = levels.is_some_and(|all| all.values().any(|level| *level >= ffi::SQLITE_LOCK_RESERVED));
        *out = c_int::from(held);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_file: *mut ffi::sqlite3_file, _what: c_int, _with: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    4_096
}

unsafe extern "C" fn device_characteristics(_file: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: `METHODS` is only ever set by `open`.
    let file = unsafe { opened(file) };
    let (region, size) = (usize::try_from(region).unwrap_or(0), usize::try_from(size).unwrap_or(0));
    let mut shared = SHARED.lock().expect("no panic under this lock");
    let regions = shared.entry(file.key()).or_default();
    while extend != 0 && regions.len() <= region {
        // 8-byte alignment: SQLite keeps 32-bit words there and reads them atomically.
        let memory: Box<[u64]> = vec![0; size.div_ceil(8)].into_boxed_slice();
        regions.push(Region(Box::into_raw(memory).cast(), size.div_ceil(8)));
    }
    let found = regions.get(region).map_or(std::ptr::null_mut(), |region| region.0);
    // SAFETY: SQLite gives a place for the answer.
    unsafe { *out = found.cast() };
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    offset: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: `METHODS` is only ever set by `open`.
    let file = unsafe { opened(file) };
    let mut state = file.state();
    let Some(found) = state.files.get_mut(&file.file) else { return ffi::SQLITE_IOERR_SHMLOCK };
    let begin = usize::try_from(offset).unwrap_or(0);
    let slots = begin..begin + usize::try_from(count).unwrap_or(0);
    let locks = &mut found.locks;
    let me = file.handle;
    let wants_exclusive = flags & ffi::SQLITE_SHM_EXCLUSIVE != 0;
    if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
        for slot in slots {
            if wants_exclusive {
                locks.exclusive[slot] = locks.exclusive[slot].filter(|holder| *holder != me);
            } else {
                locks.shared[slot].retain(|holder| *holder != me);
            }
        }
        return ffi::SQLITE_OK;
    }
    let blocked = |slot: usize| {
        let taken = locks.exclusive[slot].is_some_and(|holder| holder != me);
        taken || (wants_exclusive && locks.shared[slot].iter().any(|holder| *holder != me))
    };
    if slots.clone().any(blocked) {
        return ffi::SQLITE_BUSY;
    }
    for slot in slots {
        if wants_exclusive {
            locks.exclusive[slot] = Some(me);
        } else if !locks.shared[slot].contains(&me) {
            locks.shared[slot].push(me);
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_barrier(_file: *mut ffi::sqlite3_file) {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, remove: c_int) -> c_int {
    // SAFETY: `METHODS` is only ever set by `open`.
    let file = unsafe { opened(file) };
    if let Some(found) = file.state().files.get_mut(&file.file) {
        found.locks.shared.iter_mut().for_each(|holders| holders.retain(|holder| *holder != file.handle));
        found.locks.exclusive.iter_mut().for_each(|holder| *holder = holder.filter(|h| *h != file.handle));
    }
    if remove != 0 {
        release(file.key());
    }
    ffi::SQLITE_OK
}

/// Forgets the shared memory of one file, which nobody maps any more.
fn release(key: (usize, u64)) {
    let regions = SHARED.lock().expect("no panic under this lock").remove(&key).unwrap_or_default();
    for region in regions {
        let memory = std::ptr::slice_from_raw_parts_mut(region.0.cast::<u64>(), region.1);
        // SAFETY: `shm_map` made it as a box of just that many words, and the last user has unmapped it.
        drop(unsafe { Box::from_raw(memory) });
    }
}

/// Forgets all shared memory of `disk`: its users are gone, as after a crash.
pub fn release_shared(disk: &'static Disk) {
    let place = std::ptr::from_ref(disk) as usize;
    let shared = SHARED.lock().expect("no panic under this lock");
    let keys: Vec<_> = shared.keys().filter(|key| key.0 == place).copied().collect();
    drop(shared);
    keys.into_iter().for_each(release);
}
