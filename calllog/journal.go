package calllog

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options say how a journal is kept. Zero fields mean the default.
type Options struct {
	// FileBytes is the size of one file, reserved on disk when it is made.
	// Default 64 MiB; at least 256 KiB, at most 1 GiB.
	FileBytes int64
	// FileAge closes a file before it is full. Default 1 h; negative: never.
	FileAge time.Duration
	// KeepBytes is how much disk the journal takes; the oldest files go first, the one
	// being written never. Default 1 GiB; negative: without bound.
	KeepBytes int64
	// KeepFor is how long records are kept, to the age of a file. Default 24 h;
	// negative: for ever.
	KeepFor time.Duration
	// Hold keeps all files until Configure is called with other options: who opens a journal before reading how long
	// records are kept must not delete by the defaults.
	Hold bool
	// Sync is how often records are written to the disk itself, which saves them
	// from a loss of power. The death of the process alone loses none. Default 1 s.
	Sync time.Duration
	// Node is the name of this node, kept in each file.
	Node string
	// Logger is told about trouble and its end. Default slog.Default().
	Logger *slog.Logger
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

const (
	day           = 24 * time.Hour
	minFileBytes  = 256 << 10
	maxFileBytes  = 1 << 30
	fileBytesUnit = 64 << 10 // a multiple of all page sizes
)

func (o Options) withDefaults() Options {
	if o.FileBytes <= 0 {
		o.FileBytes = 64 << 20
	}
	o.FileBytes = min(max(o.FileBytes, minFileBytes), maxFileBytes) &^ (fileBytesUnit - 1)
	if o.FileAge == 0 {
		o.FileAge = time.Hour
	}
	if o.KeepBytes == 0 {
		o.KeepBytes = 1 << 30
	}
	if o.KeepFor == 0 {
		o.KeepFor = day
	}
	if o.Sync <= 0 {
		o.Sync = time.Second
	}
	o.Sync = max(o.Sync, 10*time.Millisecond)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// tuning is what only tests change.
type tuning struct {
	patience  time.Duration // how long Append waits for a file that is being made
	retry     time.Duration // between two attempts to make a file
	retention time.Duration // between two looks at old files
	uptime    func() time.Duration
	stall     func() // before a file is made
}

func usualTuning() tuning {
	start := time.Now()
	return tuning{
		patience:  250 * time.Millisecond,
		retry:     5 * time.Second,
		retention: time.Minute,
		uptime:    func() time.Duration { return time.Since(start) },
		stall:     func() {},
	}
}

// Journal is the writing side: it takes the records of one node. A directory has one
// at a time. Its Reader finds what it took.
//
// Its life: Open locks the directory and makes the first file. Append copies into
// the active segment. Three goroutines work behind it: the preparer keeps the next
// segment ready, the flusher writes to the disk, the sealer indexes full segments
// and deletes old ones. Close seals what is open.
type Journal struct {
	*Reader
	options atomic.Pointer[Options]
	active  atomic.Pointer[segment] // nil while there is none
	dropped [numCauses]atomic.Uint64
	tuning  tuning
	clock   ageClock

	wakePreparer chan struct{}
	wakeFlusher  chan struct{}
	wakeSealer   chan struct{}
	stop         chan struct{}
	group        sync.WaitGroup

	// flushing is held while writing to the disk, before mu.
	flushing sync.Mutex

	// mu guards what follows. Nobody holds it while waiting for the disk.
	mu          sync.Mutex
	closed      bool
	lockFile    *os.File
	seq         uint64        // the highest number taken
	making      uint64        // the number of a file that is being made
	next        *segment      // the one after active
	ready       chan struct{} // closed when active is set, or trouble is
	trouble     *trouble      // why no file can be made
	queue       []*segment    // full, not yet sealed, oldest first
	touched     []*segment    // amended since they were sealed
	held        []held        // sealed ones, and those of before, oldest first
	unreadable  map[string]string
	past        uint64 // records in segments that left the queue
	broken      uint64
	brokenAt    time.Time
	unsynced    bool // the last Sync failed
	deleted     uint64
	lastSync    time.Time
	lastError   string
	lastErrorAt time.Time
}

// trouble is an episode in which no file can be made.
type trouble struct {
	cause   cause
	since   time.Time
	dropped uint64 // when it began
}

// Open makes dir, if need be, the journal of this node. It fails only if the
// directory cannot be used; the caller then serves without records, unless it is ErrInUse. Old files that
// are torn, foreign or unreadable do not matter to it: Stats names them. A full
// disk does not either: records are dropped and counted until there is room.
func Open(dir string, o Options) (*Journal, error) { return open(dir, o, usualTuning()) }

func open(dir string, o Options, t tuning) (*Journal, error) {
	o = o.withDefaults()
	lockFile, err := lockDir(dir, o.Node)
	if err != nil {
		return nil, fmt.Errorf("opening the call journal in %q: %w", dir, err)
	}
	j := &Journal{
		Reader:       &Reader{dir: dir},
		tuning:       t,
		lockFile:     lockFile,
		wakePreparer: make(chan struct{}, 1),
		wakeFlusher:  make(chan struct{}, 1),
		wakeSealer:   make(chan struct{}, 1),
		stop:         make(chan struct{}),
		ready:        make(chan struct{}),
		unreadable:   make(map[string]string),
	}
	j.options.Store(&o)
	if err := j.refresh(); err != nil {
		_ = lockFile.Close()
		return nil, fmt.Errorf("opening the call journal in %q: %w; %s", dir, err, useful)
	}
	if j.seq == 0 {
		// Numbers must not begin again when somebody has emptied the directory: who
		// follows takes lower ones for old.
		j.seq = uint64(max(o.Now().Unix(), 0))
	}
	if !j.options.Load().Hold {
		j.clock = j.startClock()
	}
	j.clearAway()
	j.prepareNext()
	for _, f := range []func(){j.preparer, j.flusher, j.sealer} {
		j.group.Go(f)
	}
	return j, nil
}

// ErrInUse is what errors of Open are where another process has the directory.
var ErrInUse = errors.New("another process writes there")

type inUse string

func (e inUse) Error() string      { return string(e) }
func (inUse) Is(target error) bool { return target == ErrInUse }

const useful = "it needs a directory in which this user may make files"

// lockDir makes the directory and takes its lock.
func lockDir(dir, node string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w; %s", err, useful)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w; %s", err, useful)
	}
	taken, err := lock(f)
	if taken {
		who := make([]byte, 512)
		n, _ := f.ReadAt(who, 0)
		_ = f.Close()
		line, _, _ := strings.Cut(string(who[:n]), "\n")
		if line == "" {
			line = "another process"
		}
		return nil, inUse(line + " writes there; stop it, or give this node a directory of its own")
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%w; the file system must know file locks", err)
	}
	// Who has the lock is for people; that it could not be written does not matter.
	_ = f.Truncate(0)
	_, _ = fmt.Fprintf(f, "process %d (node %q)\n", os.Getpid(), node)
	return f, nil
}

// Configure changes the options of a running journal. FileBytes and Node count from
// the next file that is made.
func (j *Journal) Configure(o Options) {
	o = o.withDefaults()
	j.options.Store(&o)
	wake(j.wakeFlusher)
	wake(j.wakeSealer)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Ref is where a record lies, for Amend. It keeps the memory of its file from being
// given back: hold it no longer than the call. The zero Ref is a record that was
// dropped.
type Ref struct {
	seg *segment
	off uint64
}

// Dropped says that the record was not taken.
func (r Ref) Dropped() bool { return r.seg == nil }

// Append takes a copy of the record; texts that are too long are cut. When it
// returns, the record can be found, and the death of the process does not lose it.
//
// It does not allocate and takes no lock, except when a file is full and its
// successor is not ready, because more than a file was filled in the time that it
// takes to make one: then it waits for at most 250 ms, since a late answer is
// better than a call without record. If the record is lost after all, because of
// that or because no file can be made (then it does not wait), it is counted.
func (j *Journal) Append(r *Record) Ref {
	var e encoder
	e.measure(r)
	var waited time.Duration
	faults := 0
	for {
		s := j.active.Load()
		if s == nil {
			if c, ok := j.await(&waited); !ok {
				return j.drop(c)
			}
			continue
		}
		off, result := s.store(&e)
		switch result {
		case storedWell:
			if off>>nudgeShift != (off+e.size)>>nudgeShift {
				wake(j.wakePreparer)
			}
			return Ref{s, off}
		case storedNoRoom: // others were faster
			j.retire(s, nil)
		case storedFault:
			j.retire(s, errFault)
			if faults++; faults == 4 {
				return j.drop(causeFault)
			}
		}
	}
}

func (j *Journal) drop(c cause) Ref {
	j.dropped[c].Add(1)
	return Ref{}
}

// await waits until there may be an active segment, or says why there is none.
func (j *Journal) await(waited *time.Duration) (cause, bool) {
	j.mu.Lock()
	ready, trouble, closed := j.ready, j.trouble, j.closed
	j.mu.Unlock()
	switch {
	case closed:
		return causeClosed, false
	case j.active.Load() != nil:
		return 0, true
	case trouble != nil:
		return trouble.cause, false
	case *waited >= j.tuning.patience:
		return causeSlow, false
	}
	wake(j.wakePreparer)
	start := time.Now()
	timer := time.NewTimer(j.tuning.patience - *waited)
	defer timer.Stop()
	select {
	case <-ready:
	case <-timer.C:
	}
	*waited += time.Since(start)
	return 0, true
}

// Amend corrects the end of a call whose record was appended just before its last
// byte failed to be written: it adds flags and sets the bytes and the duration. It
// is called by the goroutine that appended, once. It reports whether the
// record was still there to be corrected.
func (j *Journal) Amend(ref Ref, add Flags, bytesOut int64, duration time.Duration) bool {
	if ref.seg == nil || ref.seg.amend(ref.off, add, bytesOut, duration) != nil {
		return false
	}
	if ref.seg.sealed.Load() {
		j.mu.Lock()
		if !j.closed && len(j.touched) < 64 && !slices.Contains(j.touched, ref.seg) {
			j.touched = append(j.touched, ref.seg)
		}
		j.mu.Unlock()
	}
	return true
}

// retire puts the next segment in the place of s, which is full or broken.
func (j *Journal) retire(s *segment, broken error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.active.Load() != s {
		return // somebody else did
	}
	s.broken = broken
	if broken != nil {
		j.broken++
		j.failed(fmt.Errorf("%s broke while it was written: %w", s.path, broken))
		j.options.Load().Logger.Error("a file of the call journal broke while it was written; going on in a new one", "file", s.path, "error", broken)
		if now := time.Now(); now.Sub(j.brokenAt) < j.tuning.retry {
			// One after the other: new files will break as well. Not to make them as
			// fast as calls come, the next one waits for the retry.
			j.inTrouble(causeFault, broken)
		}
		j.brokenAt = time.Now()
	}
	j.queue = append(j.queue, s)
	j.active.Store(j.next)
	if j.next == nil {
		j.ready = make(chan struct{})
	}
	j.next = nil
	wake(j.wakePreparer)
	wake(j.wakeSealer)
}

// signal lets those go on who wait for a file; mu is held.
func (j *Journal) signal() {
	select {
	case <-j.ready:
	default:
		close(j.ready)
	}
}

// failed notes an error for Stats; mu is held.
func (j *Journal) failed(err error) {
	j.lastError, j.lastErrorAt = err.Error(), j.options.Load().Now()
}

// Close seals what is open and gives the directory free. Records that are appended
// afterwards are dropped.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	if s := j.active.Swap(nil); s != nil {
		s.broken = s.finish()
		j.queue = append(j.queue, s)
	}
	j.signal()
	next := j.next
	j.next = nil
	close(j.stop)
	j.mu.Unlock()

	j.group.Wait()
	if next != nil {
		_ = os.Remove(next.path)
	}
	return j.lockFile.Close()
}

// refresh looks what files there are, besides those in use.
func (j *Journal) refresh() error {
	files, err := j.list()
	if err != nil {
		return err
	}
	j.mu.Lock()
	known := make(map[uint64]bool)
	for _, s := range append(j.queue[:len(j.queue):len(j.queue)], j.active.Load(), j.next) {
		if s != nil {
			known[s.seq] = true
		}
	}
	old := make(map[uint64]held)
	for _, h := range j.held {
		old[h.seq] = h
	}
	known[j.making] = true
	j.mu.Unlock()

	var now []held
	unreadable := make(map[string]string)
	for _, f := range files {
		if known[f.seq] {
			continue
		}
		h, ok := old[f.seq]
		var err error // of this file alone
		if !ok || !h.indexed {
			h, err = inspect(f)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			unreadable[filepath.Base(f.path)] = err.Error()
		default:
			now = append(now, h)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(files); n > 0 {
		j.seq = max(j.seq, files[n-1].seq)
	}
	j.held, j.unreadable = now, unreadable
	return nil
}
