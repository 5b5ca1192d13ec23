package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/whygate/whygate/admin"
	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/snapshot"
)

// serveOptions are the flags of serve.
type serveOptions struct {
	paths     []string
	upstream  string
	listen    string
	listenSet bool
	admin     string
	data      string
	node      string
	logFormat string
	logLevel  string
}

const (
	defaultListen = "127.0.0.1:8080"
	defaultAdmin  = "127.0.0.1:9080"
)

func (a *app) serveCommand() *cobra.Command {
	var o serveOptions
	c := &cobra.Command{
		Use:   "serve FILE|DIR…",
		Short: "Run the gateway",
		Long: `Runs the gateway by documents (YAML or JSON, files or folders), or in front of one
local service with --upstream. Changed documents are taken over by themselves and on
SIGHUP: they are compiled as a whole, and if anything is wrong the revision in use
stays. SIGTERM and Ctrl-C drain: calls in flight end, then the node leaves.`,
		Example: `  whygate serve --upstream http://127.0.0.1:3000
  whygate serve /etc/whygate --listen 0.0.0.0:8080 --data /var/lib/whygate`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.paths, o.listenSet = args, cmd.Flags().Changed("listen")
			switch {
			case len(args) == 0 && o.upstream == "":
				return usage("serve what? name files or folders with documents, or --upstream http://127.0.0.1:3000 for one local service")
			case len(args) > 0 && o.upstream != "":
				return usage("either documents or --upstream, not both")
			}
			return a.serve(cmd.Context(), &o, nil)
		},
	}
	c.Flags().StringVar(&o.upstream, "upstream", "", "front this one service with sane defaults, without documents")
	c.Flags().StringVar(&o.listen, "listen", defaultListen, "address to serve on; documents may name more")
	c.Flags().StringVar(&o.admin, "admin", defaultAdmin, "address of the admin API; \"\" for none")
	c.Flags().StringVar(&o.data, "data", defaultData(), "directory for records, quotas and the admin token")
	o.commonFlags(c)
	return c
}

func (o *serveOptions) commonFlags(c *cobra.Command) {
	host, _ := os.Hostname()
	c.Flags().StringVar(&o.node, "node", host, "name of this node, in records and metrics")
	c.Flags().StringVar(&o.logFormat, "log-format", "text", "format of the log: text or json")
	c.Flags().StringVar(&o.logLevel, "log-level", "info", "least level that is logged: debug, info, warn or error")
	completeFlag(c, "log-format", words("text", "json"))
	completeFlag(c, "log-level", words("debug", "info", "warn", "error"))
}

// node is a running gateway with all that belongs to it.
type node struct {
	app      *app
	opts     *serveOptions
	log      *slog.Logger
	gateway  *gateway.Gateway
	journal  *calllog.Journal
	noRecord error // why there is no journal
	quotas   *counter.Quotas
	admin    *admin.Server
	adminLn  net.Listener
	draining atomic.Bool
	exit     func(code int) // of the process, when it has to end whatever it waits for
	deadline *time.Timer    // for that

	reloading sync.Mutex // guards what follows
	last      admin.ReloadStatus
	seen      string // state of the watched files at the last load; "" if that has changed meanwhile
}

// serve runs a node until ctx ends and has been drained. started is called once it serves.
func (a *app) serve(ctx context.Context, o *serveOptions, started func(*node)) error {
	log, err := newLogger(a.err, o)
	if err != nil {
		return err
	}
	// Who reads the log may leave; the runtime ends a process for that unless it ignores the signal.
	signal.Ignore(syscall.SIGPIPE)
	// From the first document to the last call: without this SIGHUP would end the process.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	most := limitMemory(log)
	n := &node{app: a, opts: o, log: log, exit: os.Exit}
	if err := n.open(); err != nil {
		return err
	}
	n.gateway.MemoryLimit = most
	defer n.close()
	if most > 0 {
		watching, stop := context.WithCancel(context.Background())
		defer stop()
		go watchMemory(watching, n.gateway, most, usedMemory, log)
	}
	if err := n.firstLoad(); err != nil {
		return err
	}
	if err := n.gateway.Listen(); err != nil {
		return environment(err)
	}
	if err := n.startAdmin(); err != nil {
		return environment(err)
	}
	n.announce()
	if started != nil {
		started(n)
	}
	n.background(ctx, hup)
	return n.drain()
}

func newLogger(w io.Writer, o *serveOptions) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return nil, usage("--log-level is debug, info, warn or error, not %q", o.logLevel)
	}
	h := &slog.HandlerOptions{Level: level}
	switch o.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(w, h)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, h)), nil
	}
	return nil, usage("--log-format is text or json, not %q", o.logFormat)
}

// open readies what outlives revisions: data directory, journal, quotas, gateway.
func (n *node) open() error {
	if err := os.MkdirAll(n.opts.data, 0o750); err != nil {
		return environment(fmt.Errorf("making the data directory: %w; name another one with --data", err))
	}
	var recorder gateway.Recorder
	j, err := calllog.Open(filepath.Join(n.opts.data, journalName), calllog.Options{Node: n.opts.node, Logger: n.log, Hold: true})
	switch {
	case errors.Is(err, calllog.ErrInUse):
		// Two nodes would write over each other's quotas, and commands would ask the wrong one.
		return environment(fmt.Errorf("%w, with --data", err))
	case err != nil:
		// Serving calls matters more than recording them; status and metrics tell.
		n.log.Error("serving without call records", "error", err)
		n.noRecord = fmt.Errorf("%w; when that is mended, start the node again", err)
	default:
		n.journal, recorder = j, j
	}
	if n.quotas, err = counter.OpenQuotas(filepath.Join(n.opts.data, "quotas.json")); err != nil {
		n.log.Error("quotas", "error", err)
	}
	n.gateway = gateway.New(n.opts.node, n.log, recorder, n.quotas)
	return nil
}

func (n *node) close() {
	n.gateway.Close()
	if err := n.quotas.Save(); err != nil {
		n.log.Error("saving quotas", "error", err)
	}
	if n.journal != nil {
		if err := n.journal.Close(); err != nil {
			n.log.Error("closing the journal", "error", err)
		}
	}
	if n.deadline != nil {
		n.deadline.Stop()
	}
}

// load compiles the documents as they are now.
func (n *node) load() (*snapshot.Snapshot, *resource.Set, resource.Problems) {
	var set *resource.Set
	var problems resource.Problems
	if n.opts.upstream != "" {
		set, problems = resource.Parse(resource.File{Name: "--upstream", Data: upstreamDocuments(n.opts.upstream)})
	} else {
		if set, problems = loadDocuments(n.opts.paths); len(set.APIs) == 0 && !problems.HasErrors() {
			problems = append(problems, resource.Problem{Pos: resource.Pos{File: strings.Join(n.opts.paths, " ")},
				Message: "there is no document of kind API, so every call would be refused", Hint: "name the files of your APIs, too"})
		}
	}
	env := n.gateway.Env()
	env.Listen, env.AlsoListen = n.opts.listen, n.opts.listenSet
	snap, more := snapshot.Compile(set, env)
	problems = append(problems, more...)
	problems.Sort(set.Files())
	if problems.HasErrors() {
		return nil, set, problems
	}
	return snap, set, problems
}

// upstreamDocuments front one service.
func upstreamDocuments(url string) []byte {
	return []byte(fmt.Sprintf(`apiVersion: whygate/v1
kind: Gateway
metadata: {name: gateway}
spec:
  disclosure: {anonymous: caller}
---
apiVersion: whygate/v1
kind: Upstream
metadata: {name: local}
spec:
  targets: [{url: %q}]
---
apiVersion: whygate/v1
kind: API
metadata: {name: local}
spec:
  upstream: local
`, url))
}

func (n *node) firstLoad() error {
	asRead := n.state(nil)
	snap, set, problems := n.load()
	steady := n.state(nil) == asRead
	n.tell(problems, set)
	n.last = admin.ReloadStatus{At: time.Now(), OK: snap != nil, Problems: problems}
	if snap == nil {
		return wrong("the documents have errors")
	}
	n.apply(snap)
	n.see(snap, steady)
	return nil
}

// apply brings a snapshot into use under the next revision number.
func (n *node) apply(snap *snapshot.Snapshot) {
	snap.Revision = n.nextRevision(snap.Digest)
	n.gateway.Apply(snap)
	if n.journal != nil {
		r := snap.Gateway.Records
		n.journal.Configure(calllog.Options{Node: n.opts.node, Logger: n.log, FileBytes: int64(r.FileBytes), FileAge: time.Duration(r.FileAge),
			KeepBytes: int64(r.KeepBytes), KeepFor: time.Duration(r.KeepFor)})
	}
}

type revisionFile struct {
	Revision uint64 `json:"revision"`
	Digest   string `json:"digest"`
}

// nextRevision counts contents: the same documents keep their number, over restarts too.
func (n *node) nextRevision(digest string) uint64 {
	name := filepath.Join(n.opts.data, "revision.json")
	var f revisionFile
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil { // a number of calls that were recorded must not come to mean other documents
		f = revisionFile{Revision: n.lastRecorded()}
		if !errors.Is(err, fs.ErrNotExist) {
			n.log.Error("the file of the revision cannot be read; counting goes on from the last recorded call", "file", name, "error", err, "revision", f.Revision)
		}
	}
	if f.Digest == digest && f.Revision > 0 {
		return f.Revision
	}
	f = revisionFile{f.Revision + 1, digest}
	b, _ = json.Marshal(f)
	if err := writeFile(name, b); err != nil {
		n.log.Error("remembering the revision", "error", err)
	}
	return f.Revision
}

// lastRecorded is the revision that decided the newest recorded call, 0 without.
func (n *node) lastRecorded() uint64 {
	if n.journal == nil {
		return 0
	}
	last, err := n.journal.Last(1, calllog.Filter{})
	if err != nil || len(last) == 0 {
		return 0
	}
	return last[0].Revision
}

func writeFile(name string, b []byte) error {
	if err := os.WriteFile(name+".new", b, 0o640); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// reload loads the documents again. If anything is wrong the revision in use stays. The error is why
// they are not loaded at all.
func (n *node) reload() (resource.Problems, error) {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	if n.draining.Load() { // listeners that were closed must stay so
		return nil, errors.New("the node is draining, and loads no documents any more")
	}
	before, failed := n.gateway.Snapshot(), !n.last.OK
	asRead := n.state(before)
	snap, set, problems := n.load()
	steady := n.state(before) == asRead
	n.last = admin.ReloadStatus{At: time.Now(), OK: snap != nil, Problems: problems}
	if snap == nil {
		n.see(before, steady)
		n.tell(problems, set)
		n.log.Error("the documents have errors; the revision in use stays", "revision", before.Revision)
		return problems, nil
	}
	n.apply(snap)
	n.see(snap, steady)
	if err := n.gateway.Listen(); err != nil {
		n.log.Error("listeners", "error", err)
	}
	n.announce()
	switch {
	case snap.Revision != before.Revision:
		n.tell(problems, set)
		n.log.Info("new revision", "revision", snap.Revision, "routes", len(snap.Routes), "warnings", len(problems))
	case failed:
		n.log.Info("the documents have no errors any more, and say what they said before", "revision", snap.Revision)
	}
	return problems, nil
}

// tell says what is wrong with documents, for people with the lines they are about, for programs as records
// of the log.
func (n *node) tell(problems resource.Problems, set *resource.Set) {
	if n.opts.logFormat != "json" {
		problems.Render(n.app.err, set.Sources(), n.app.styleFor(n.app.err).on)
		return
	}
	for _, p := range problems {
		level := slog.LevelWarn
		if p.Severity == resource.Error {
			level = slog.LevelError
		}
		n.log.Log(context.Background(), level, "document: "+p.Message, "file", p.File, "line", p.Line, "column", p.Col, "code", p.Code, "hint", p.Hint)
	}
}

func (n *node) lastReload() admin.ReloadStatus {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	return n.last
}

// state is a fingerprint of everything that documents were read from: names, sizes, times.
func (n *node) state(snap *snapshot.Snapshot) string {
	var b strings.Builder
	stat := func(name string) {
		if i, err := os.Stat(name); err == nil {
			fmt.Fprintf(&b, "%s %d %d\n", name, i.Size(), i.ModTime().UnixNano())
		} else {
			fmt.Fprintf(&b, "%s -\n", name)
		}
	}
	for _, p := range n.opts.paths {
		filepath.WalkDir(p, func(name string, d fs.DirEntry, err error) error {
			if err == nil && (!d.IsDir() || name == p) {
				stat(name)
			}
			return nil
		})
	}
	if snap != nil {
		for _, f := range snap.Watched {
			stat(f)
		}
	}
	return b.String()
}

// see remembers what the documents look like that were loaded. What changed while they were read
// (steady is false then) is looked at again.
func (n *node) see(snap *snapshot.Snapshot, steady bool) {
	if n.seen = ""; steady {
		n.seen = n.state(snap)
	}
}

// settled says that nobody is writing documents at this moment: half of a file may well be valid.
func (n *node) settled() bool {
	snap := n.gateway.Snapshot()
	before := n.state(snap)
	time.Sleep(50 * time.Millisecond)
	return n.state(snap) == before
}

func (n *node) startAdmin() error {
	if n.opts.admin == "" {
		return nil
	}
	token, err := admin.LoadToken(n.opts.data)
	if err != nil {
		return err
	}
	if n.adminLn, err = net.Listen("tcp", n.opts.admin); err != nil {
		return gateway.ListenError(n.opts.admin, err)
	}
	n.admin = &admin.Server{Gateway: n.gateway, Journal: n.journal, NoJournal: n.noRecord, Token: token, Log: n.log, Started: time.Now(), Version: version,
		Reload: n.reload, LastReload: n.lastReload, Draining: n.draining.Load}
	if n.journal != nil {
		n.admin.Calls = n.journal.Reader
	}
	srv := n.admin.HTTPServer()
	go srv.Serve(n.adminLn)
	return nil
}

// announce leaves in the data directory where the node can be found.
func (n *node) announce() {
	info := nodeInfo{Node: n.opts.node, PID: os.Getpid(), Started: time.Now()}
	if n.adminLn != nil {
		info.Admin = n.adminLn.Addr().String()
	}
	for _, addr := range n.gateway.Addresses() {
		info.Listeners = append(info.Listeners, addr.String())
	}
	b, _ := json.Marshal(info)
	if err := writeFile(filepath.Join(n.opts.data, nodeFile), b); err != nil {
		n.log.Error("leaving the node's address in the data directory", "error", err)
	}
}

// background does what must be done now and then, until ctx ends.
func (n *node) background(ctx context.Context, hup <-chan os.Signal) {
	look := time.NewTicker(time.Second)
	defer look.Stop()
	sweep := time.NewTicker(time.Minute)
	defer sweep.Stop()
	nextSave := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			n.reload()
		case <-sweep.C:
			n.gateway.Memory.Sweep()
		case <-look.C:
			if now := time.Now(); now.After(nextSave) {
				if err := n.quotas.Save(); err != nil {
					n.log.Error("saving quotas", "error", err)
				}
				// Many quotas take longer to write: never spend more than a twentieth on it.
				nextSave = time.Now().Add(max(900*time.Millisecond, 20*time.Since(now)))
			}
			n.reloading.Lock()
			changed := n.seen != n.state(n.gateway.Snapshot())
			n.reloading.Unlock()
			if changed && n.settled() {
				n.reload()
			}
		}
	}
}

// drain lets calls in flight end. A second signal ends them at once.
func (n *node) drain() error {
	d := n.gateway.Snapshot().Gateway.Drain
	n.deadline = time.AfterFunc(time.Duration(d.Stop), func() {
		n.log.Error("the node has not drained in time: the process ends", "stop", time.Duration(d.Stop), "connections", n.gateway.Server().Conns())
		n.exit(exitEnvironment)
	})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	n.reloading.Lock() // a reload that has begun comes to its end
	n.draining.Store(true)
	n.reloading.Unlock()
	delay := time.Duration(d.Delay)
	if n.admin == nil || !n.admin.Watched() {
		delay = 0
	}
	n.log.Info("draining", "delay", delay, "deadline", time.Duration(d.Deadline))
	select {
	case <-ctx.Done():
	case <-time.After(delay):
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(d.Deadline))
	defer cancel()
	if broken := n.gateway.Drain(ctx); broken > 0 {
		n.log.Warn("connections broken at the end of the drain", "connections", broken)
	}
	if n.adminLn != nil {
		n.adminLn.Close()
	}
	n.log.Info("drained")
	return nil
}
