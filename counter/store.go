package counter

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// quiet keeps the client from logging to the standard error: what fails is logged here.
var quiet = sync.OnceFunc(logging.Disable)

// Store keeps counters in Redis or Valkey, where several nodes count together.
//
// All that a node asks goes through one goroutine, which sends what has gathered as one pipeline and
// then takes the next: a call costs one round trip, and what a call gave back is there before
// whatever this node asks next. When the server fails, everything that waits is told so at once, and nobody
// asks again before the goroutine has found the server in order: no call waits for a server that is known to be
// away.
//
// A place among the calls in flight is taken for a minute and renewed while the call lasts, so
// that places of a node that died become free.
type Store struct {
	opts   StoreOptions
	client *redis.Client
	node   string // random, in the names of places

	asking, settling script

	up      atomic.Bool // changes under mu
	started atomic.Bool
	members atomic.Uint64
	asked   atomic.Int64
	failed  atomic.Int64
	without atomic.Int64

	mu      sync.Mutex // guards what follows
	queue   []*Call
	returns []returned
	places  map[string]string // keys by member
	why     string            // it is away
	since   time.Time         // it is away or back
	closed  bool

	wake    chan struct{}
	stop    chan struct{}
	stopped chan struct{}
	calls   sync.Pool
}

// returned is a command of settleScript. Those that hold places only may be sent again when nobody knows
// whether the server has seen them.
type returned struct {
	cmd   redis.Cmder
	again bool
}

// StoreOptions say where the server is.
type StoreOptions struct {
	// URL is redis://[user@]host:port/database, or rediss:// for TLS.
	URL      string
	Password string
	// TLS is how servers of rediss are verified; nil means by the authorities of the system.
	TLS *tls.Config
	// Timeout bounds how long a call waits for an answer.
	Timeout time.Duration
	// Prefix of all keys.
	Prefix string
	Log    *slog.Logger
}

const (
	queueBound  = 1 << 13 // calls that wait
	returnBound = 1 << 14 // commands that give back, while the server is away
	batchBound  = 512     // calls in a pipeline
	placeFor    = 60      // seconds
	renewEvery  = placeFor / 3 * time.Second
	renewBatch  = 100 // places in a command
	lookEvery   = time.Second
	firstPause  = 50 * time.Millisecond // between attempts to reach a server that is away
	longPause   = time.Second
	leastDial   = time.Second
)

// ErrAway says that the store cannot be asked; Why tells more.
var ErrAway = errors.New("the store is away")

// CheckStoreURL says what is wrong with the URL of a store.
func CheckStoreURL(url string) error {
	_, err := redis.ParseURL(url)
	return err
}

// NewStore readies a store. Nothing is connected before Start.
func NewStore(o StoreOptions) (*Store, error) {
	ro, err := redis.ParseURL(o.URL)
	if err != nil {
		return nil, err
	}
	if o.Password != "" {
		ro.Password = o.Password
	}
	if ro.TLSConfig != nil && o.TLS != nil {
		t := o.TLS.Clone()
		t.ServerName = ro.TLSConfig.ServerName
		ro.TLSConfig = t
	}
	ro.Protocol, ro.DisableIdentity = 2, true
	ro.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	ro.MaxRetries, ro.DialerRetries = -1, 1 // what was sent may have been counted
	ro.ReadTimeout, ro.WriteTimeout = o.Timeout, o.Timeout
	ro.DialTimeout = max(o.Timeout, leastDial)
	ro.PoolSize, ro.PipelinePoolSize = 2, -1
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	quiet()
	var id [9]byte
	rand.Read(id[:])
	s := &Store{opts: o, client: redis.NewClient(ro), node: base64.RawURLEncoding.EncodeToString(id[:]), places: map[string]string{},
		asking: newScript(askScript), settling: newScript(settleScript),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}), since: time.Now()}
	s.calls.New = func() any { return s.newCall() }
	return s, nil
}

// Start connects in the background. Until the first answer the server is taken to be there.
func (s *Store) Start() {
	s.mu.Lock()
	s.up.Store(true)
	s.mu.Unlock()
	s.started.Store(true)
	go s.run()
}

// Started says that there is a store to ask. In a revision that never came into use there is none.
func (s *Store) Started() bool { return s.started.Load() }

// Close ends the connection. What calls gave back is sent before.
func (s *Store) Close() {
	if s.started.Load() {
		close(s.stop)
		<-s.stopped
	}
	s.client.Close()
}

// StoreStats say how a store is.
type StoreStats struct {
	Address string    `json:"address"`
	Up      bool      `json:"up"`
	Since   time.Time `json:"since"`
	Error   string    `json:"error,omitempty"` // why it is away
	Asked   int64     `json:"asked"`           // calls that were answered
	Failed  int64     `json:"failed"`          // times it went away
	Without int64     `json:"without"`         // calls that were decided without it
}

// Stats describe the store as of now.
func (s *Store) Stats() StoreStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return StoreStats{Address: s.Address(), Up: s.up.Load(), Since: s.since, Error: s.why, Asked: s.asked.Load(), Failed: s.failed.Load(), Without: s.without.Load()}
}

// Address is host:port of the server.
func (s *Store) Address() string { return s.client.Options().Addr }

// Why says why the store is away, "" if it is not.
func (s *Store) Why() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

// key names a counter: a hash, so that its length is bounded and nobody reads from it who called.
func (s *Store) key(kind, name, who string) string {
	var in [256]byte
	b := append(in[:0], kind...)
	b = append(b, 0)
	b = append(b, name...)
	b = append(b, 0)
	sum := sha256.Sum256(append(b, who...))
	var out [256]byte
	b = append(out[:0], s.opts.Prefix...)
	b = append(b, ':')
	b = append(b, kind...)
	b = append(b, ':')
	return string(base64.RawURLEncoding.AppendEncode(b, sum[:16]))
}

// --- one call ---

// Call asks for the limits of one call: name them, then Take or Peek, then look at each with
// Of. Give ends it.
type Call struct {
	store *Store
	asks  []Asked
	keys  []any
	args  []any
	cmd   []any
	spent bool
	err   error
	state atomic.Int32
	done  chan struct{}
	timer *time.Timer
}

// The states of a call that waits.
const (
	waiting = iota
	answered
	abandoned
)

// Asked is a limit that was asked for, and what came of it.
type Asked struct {
	Result
	// Period that a quota was counted in.
	Period Period

	of     any
	kind   string
	key    string
	back   any // argument of settleScript that gives it back
	spans  *Spans
	start  int64
	watch  bool
	member string
}

func (s *Store) newCall() *Call {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &Call{store: s, done: make(chan struct{}, 1), timer: t}
}

// Call begins to ask.
func (s *Store) Call() *Call { return s.calls.Get().(*Call) }

var zero, one any = "0", "1"

func flag(b bool) any {
	if b {
		return one
	}
	return zero
}

func text(n int64) any {
	if n == 1 {
		return one
	}
	return strconv.FormatInt(n, 10)
}

// Rate asks for cost calls of a rate. of stands for the limit; a limit that only watches keeps no other
// from being spent.
func (c *Call) Rate(of any, r *SharedRate, who string, cost int64, watch bool) {
	k := c.store.key(rateKind, r.name, who)
	c.asks = append(c.asks, Asked{of: of, kind: rateKind, key: k, watch: watch, back: strconv.FormatInt(r.interval*cost, 10)})
	c.keys = append(c.keys, k)
	c.args = append(c.args, rateKind, flag(watch), r.each, r.full, text(cost))
}

// Quota asks for cost calls of a quota.
func (c *Call) Quota(of any, q *SharedQuota, spans *Spans, who string, cost int64, watch bool) {
	k := c.store.key(quotaKind, q.name, who)
	n := text(cost)
	c.asks = append(c.asks, Asked{of: of, kind: quotaKind, key: k, watch: watch, back: n, spans: spans})
	c.keys = append(c.keys, k)
	c.args = append(c.args, quotaKind, flag(watch), q.limit, n, spans.ends[0], spans.ends[1], spans.ends[2], spans.ends[3])
}

var placeSeconds any = strconv.Itoa(placeFor)

// Place asks for a place among the calls in flight.
func (c *Call) Place(of any, p *SharedPlaces, who string, watch bool) {
	k := c.store.key(placeKind, p.name, who)
	member := c.store.node + strconv.FormatUint(c.store.members.Add(1), 36)
	c.asks = append(c.asks, Asked{of: of, kind: placeKind, key: k, watch: watch, back: member, member: member})
	c.keys = append(c.keys, k)
	c.args = append(c.args, placeKind, flag(watch), p.limit, member, placeSeconds)
}

// Once asks for something that may be used once, such as a nonce, and that is remembered for so long. It is never
// given back.
func (c *Call) Once(of any, name, who string, long time.Duration) {
	k := c.store.key(onceKind, name, who)
	seconds := max(int64((long+time.Second-1)/time.Second), 1)
	c.asks = append(c.asks, Asked{of: of, kind: onceKind, key: k})
	c.keys = append(c.keys, k)
	c.args = append(c.args, onceKind, zero, strconv.FormatInt(seconds, 10), zero, zero)
}

// Of finds what came of a limit, nil if it was not asked for.
func (c *Call) Of(of any) *Asked {
	for i := range c.asks {
		if c.asks[i].of == of {
			return &c.asks[i]
		}
	}
	return nil
}

// Take spends all of them, or none if one refuses.
func (c *Call) Take() error { return c.ask("t", 0) }

// Peek says what Take would, at a time that far from now.
func (c *Call) Peek(ahead time.Duration) error { return c.ask("p", ahead) }

func (c *Call) ask(mode string, ahead time.Duration) error {
	s := c.store
	seconds := ahead / time.Second
	if ahead < 0 && ahead%time.Second != 0 {
		seconds--
	}
	c.cmd = append(c.cmd[:0], "evalsha", s.asking.sha, len(c.keys))
	c.cmd = append(c.cmd, c.keys...)
	c.cmd = append(c.cmd, mode, int64(seconds), int64(ahead-seconds*time.Second))
	c.cmd = append(c.cmd, c.args...)
	c.state.Store(waiting)
	if !s.enqueue(c) {
		s.without.Add(1)
		return ErrAway
	}
	c.timer.Reset(s.opts.Timeout)
	select {
	case <-c.done:
	case <-c.timer.C:
		if c.state.CompareAndSwap(waiting, abandoned) {
			s.trip(fmt.Errorf("no answer within %v", s.opts.Timeout))
			s.without.Add(1)
			return ErrAway
		}
		<-c.done
	}
	c.timer.Stop()
	if c.err != nil {
		s.without.Add(1)
		return ErrAway
	}
	return nil
}

// read takes the answer over.
func (c *Call) read(v []int64) error {
	if err := readAnswer(v, len(c.asks)); err != nil {
		return err
	}
	c.spent = c.cmd[3+len(c.keys)] == "t"
	for i := range c.asks {
		a, v := &c.asks[i], v[5*i:]
		a.OK, a.Left, a.Retry, a.Reset = v[0] == 1, v[1], time.Duration(v[2]), time.Duration(v[3])
		if a.start = v[4]; a.kind == quotaKind {
			a.Period = a.spans.from(a.start)
		}
		if !a.OK && !a.watch {
			c.spent = false
		}
	}
	if c.spent {
		c.store.occupy(c)
	}
	return nil
}

// Undo gives back what Take spent.
func (c *Call) Undo() { c.settle(true) }

// Give ends the call: places are free again. The call must not be used any more.
func (c *Call) Give() {
	if c.state.Load() == abandoned { // it belongs to those who will answer it
		return
	}
	c.settle(false)
	clear(c.asks)
	c.asks, c.keys, c.args, c.err = c.asks[:0], c.keys[:0], c.args[:0], nil
	c.store.calls.Put(c)
}

func (c *Call) settle(all bool) {
	if !c.spent {
		return
	}
	c.spent = false
	var places, others []any
	var placeArgs, otherArgs []any
	for i := range c.asks {
		a := &c.asks[i]
		switch {
		case !a.OK, a.kind == onceKind:
		case a.kind == placeKind:
			places, placeArgs = append(places, a.key), append(placeArgs, placeKind, a.back, zero)
		case !all:
		case a.kind == quotaKind:
			others, otherArgs = append(others, a.key+":"+strconv.FormatInt(a.start, 10)), append(otherArgs, quotaKind, a.back, zero)
		default:
			others, otherArgs = append(others, a.key), append(otherArgs, rateKind, a.back, zero)
		}
	}
	if len(places) > 0 {
		c.store.give(c, returned{c.store.settleCommand(places, placeArgs), true})
	}
	if len(others) > 0 {
		c.store.give(c, returned{c.store.settleCommand(others, otherArgs), false})
	}
}

func (s *Store) settleCommand(keys, args []any) redis.Cmder {
	cmd := append([]any{"evalsha", s.settling.sha, len(keys)}, keys...)
	return redis.NewIntSliceCmd(context.Background(), append(cmd, args...)...)
}

// --- all calls ---

// enqueue adds a call to those that wait, unless the server is away.
func (s *Store) enqueue(c *Call) bool {
	s.mu.Lock()
	ok := s.up.Load() && len(s.queue) < queueBound
	if ok {
		s.queue = append(s.queue, c)
	}
	s.mu.Unlock()
	if ok {
		s.rouse()
	}
	return ok
}

func (s *Store) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// occupy notes the places of a call, to be renewed.
func (s *Store) occupy(c *Call) {
	for i := range c.asks {
		if a := &c.asks[i]; a.kind == placeKind && a.OK {
			s.mu.Lock()
			s.places[a.member] = a.key
			s.mu.Unlock()
		}
	}
}

// give gives back: now, or once the server is there again. Beyond the bound what flows back by
// itself is left to do so.
func (s *Store) give(c *Call, r returned) {
	s.mu.Lock()
	for i := range c.asks {
		if a := &c.asks[i]; a.kind == placeKind {
			delete(s.places, a.member)
		}
	}
	// A server that comes back may be another one, which never counted what is given back to it.
	if len(s.returns) < returnBound && !s.closed && (r.again || s.up.Load()) {
		s.returns = append(s.returns, r)
	}
	s.mu.Unlock()
	s.rouse()
}

// renew holds on to all places.
func (s *Store) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys, args []any
	for member, key := range s.places {
		keys, args = append(keys, key), append(args, renewKind, member, placeSeconds)
		if len(keys) == renewBatch {
			s.returns = append(s.returns, returned{s.settleCommand(keys, args), true})
			keys, args = nil, nil
		}
	}
	if len(keys) > 0 {
		s.returns = append(s.returns, returned{s.settleCommand(keys, args), true})
	}
}

// trip takes the server to be away. Nobody who waits goes on waiting.
func (s *Store) trip(err error) {
	s.mu.Lock()
	if !s.up.Load() {
		if !s.closed {
			s.why = plainError(err) // the latest cause
		}
		s.mu.Unlock()
		return
	}
	s.up.Store(false)
	s.why, s.since = plainError(err), time.Now()
	waits := s.queue
	s.queue = nil
	s.mu.Unlock()
	s.failed.Add(1)
	s.opts.Log.Warn("the shared counters are away", "store", s.Address(), "error", plainError(err))
	for _, c := range waits {
		s.deliver(c, nil, ErrAway)
	}
	s.rouse()
}

// plainError leaves out which of our own sockets it was.
func plainError(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Op != "dial" {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

func (s *Store) back() {
	s.mu.Lock()
	was, away := s.up.Load(), time.Since(s.since)
	if !was {
		s.up.Store(true)
		s.why, s.since = "", time.Now()
	}
	s.mu.Unlock()
	if !was {
		s.opts.Log.Info("the shared counters are back", "store", s.Address(), "away", away.Round(time.Millisecond))
	}
}

// run is the goroutine that talks to the server.
func (s *Store) run() {
	defer close(s.stopped)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	renew := time.NewTicker(renewEvery)
	defer renew.Stop()
	probe, pause, idle := true, firstPause, false
	for {
		if probe || !s.up.Load() {
			if err := s.probe(); err != nil {
				s.trip(err)
				select {
				case <-s.stop:
					s.end()
					return
				case <-time.After(pause):
				}
				pause = min(2*pause, longPause)
				continue
			}
			s.back()
			probe, pause = false, firstPause
			s.send()
		}
		select {
		case <-s.stop:
			s.end()
			return
		case <-s.wake:
			s.send()
			idle = false
		case <-renew.C:
			s.renew()
			s.send()
		case <-look.C:
			probe, idle = idle, true // whether it is there is known before the next call asks
		}
	}
}

// end sends what calls have given back.
func (s *Store) end() {
	s.send()
	s.mu.Lock()
	s.closed = true
	s.up.Store(false)
	s.why, s.returns = "its connection was closed", nil
	waits := s.queue
	s.queue = nil
	s.mu.Unlock()
	for _, c := range waits {
		s.deliver(c, nil, ErrAway)
	}
}

// probe asks whether the server can count: one that only reads is of no use.
func (s *Store) probe() error {
	key := s.opts.Prefix + ":probe"
	cmd := redis.NewIntSliceCmd(context.Background(), "evalsha", s.asking.sha, 1, key, "t", 0, 0, rateKind, "0", "1", "1000", "1")
	return s.exec([]redis.Cmder{redis.NewStatusCmd(context.Background(), "ping"), cmd})
}

// send sends all that waits, pipeline by pipeline.
func (s *Store) send() {
	for s.up.Load() {
		s.mu.Lock()
		n := min(len(s.queue), batchBound)
		calls := append([]*Call(nil), s.queue[:n]...)
		s.queue = append(s.queue[:0], s.queue[n:]...)
		returns := s.returns
		s.returns = nil
		s.mu.Unlock()
		if len(calls)+len(returns) == 0 {
			return
		}
		var cmds []redis.Cmder
		for _, r := range returns { // first: what was given back is there for those who ask now
			cmds = append(cmds, r.cmd)
		}
		for _, c := range calls {
			cmds = append(cmds, redis.NewIntSliceCmd(context.Background(), c.cmd...))
		}
		if err := s.exec(cmds); err != nil {
			s.keep(returns)
			s.trip(err)
		}
		for i, c := range calls {
			cmd := cmds[len(returns)+i].(*redis.IntSliceCmd)
			s.deliver(c, cmd.Val(), cmd.Err())
		}
	}
}

// keep puts back what could not be given back and may be given twice.
func (s *Store) keep(returns []returned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range returns {
		if r.cmd.Err() != nil && r.again && len(s.returns) < returnBound {
			s.returns = append(s.returns, returned{redis.NewIntSliceCmd(context.Background(), r.cmd.Args()...), true})
		}
	}
}

// deliver ends the waiting of a call. What a call got that had left is given back.
func (s *Store) deliver(c *Call, v []int64, err error) {
	if err == nil {
		if err = c.read(v); err != nil {
			s.trip(err)
		} else {
			s.asked.Add(1)
		}
	}
	c.err = err
	if c.state.CompareAndSwap(waiting, answered) {
		c.done <- struct{}{}
		return
	}
	c.settle(true)
}

// exec sends a pipeline. A server that does not know the scripts gets them; what it refused for
// want of them was not done, and is sent once more.
func (s *Store) exec(cmds []redis.Cmder) error {
	ctx := context.Background()
	for try := 0; ; try++ {
		pipe := s.client.Pipeline()
		for _, cmd := range cmds {
			pipe.Process(ctx, cmd)
		}
		_, failed := pipe.Exec(ctx)
		var first error
		var unknown []redis.Cmder
		for _, cmd := range cmds {
			switch err := cmd.Err(); {
			case err == nil:
			case redis.HasErrorPrefix(err, "NOSCRIPT") && try == 0:
				unknown = append(unknown, cmd)
			case first == nil:
				first = err
			}
		}
		switch {
		case first != nil:
			return first
		case len(unknown) == 0:
			return failed // before any command, if at all
		}
		pipe = s.client.Pipeline()
		pipe.ScriptLoad(ctx, s.asking.text)
		pipe.ScriptLoad(ctx, s.settling.text)
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
		for _, cmd := range unknown {
			cmd.SetErr(nil)
		}
		cmds = unknown
	}
}

// Fingerprint tells options apart without telling the password.
func (o *StoreOptions) Fingerprint() string {
	sum := sha256.Sum256([]byte(o.URL + "\x00" + o.Password + "\x00" + o.Timeout.String() + "\x00" + o.Prefix))
	return hex.EncodeToString(sum[:])
}
