// Package whytest starts real gateways and real upstreams for tests: sockets on loopback,
// documents as text, records in a temporary journal. Only tests import it.
package whytest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/resource"
	"github.com/whygate/whygate/snapshot"
	"github.com/whygate/whygate/wire"
)

func init() { wire.Poison = true }

// Node is a gateway under test.
type Node struct {
	*gateway.Gateway
	T       testing.TB
	Journal *calllog.Journal
	Log     *Log
	// Edit, if set, changes each snapshot before it is swapped in: for steps that no document can have.
	Edit   func(*snapshot.Snapshot)
	engine string
}

// patience is how long to wait for what must happen: only failing tests take it, busy machines need it.
const patience = 20 * time.Second

// Engines are the two that carry HTTP/1.1. Every end-to-end test runs on both and must agree.
var Engines = []string{"wire", "std"}

// EachEngine runs a test once per engine.
func EachEngine(t *testing.T, test func(t *testing.T, engine string)) {
	for _, e := range Engines {
		t.Run(e, func(t *testing.T) { test(t, e) })
	}
}

// Start starts a gateway with documents. Without a Gateway document, one listener on a free
// port of 127.0.0.1 is served by the engine; documents that name listeners use {engine}.
func Start(t testing.TB, engine, documents string) *Node {
	t.Helper()
	log := &Log{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	j, err := calllog.Open(t.TempDir(), calllog.Options{FileBytes: 1 << 20, Node: "test", Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	quotas, _ := counter.OpenQuotas("")
	n := &Node{Gateway: gateway.New("test", logger, j, quotas), T: t, Journal: j, Log: log, engine: engine}
	t.Cleanup(func() {
		noRedirects.CloseIdleConnections() // or the drain would wait for them
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if n.Snapshot() != nil { // else it never served
			n.Drain(ctx)
		}
		n.Close()
		j.Close()
	})
	if ps := n.Apply(documents); ps.HasErrors() {
		t.Fatalf("the documents have errors:\n%v", ps)
	}
	return n
}

// Apply compiles documents and swaps them in, as a reload does.
func (n *Node) Apply(documents string) resource.Problems {
	n.T.Helper()
	documents = strings.ReplaceAll(documents, "{engine}", n.engine)
	if !strings.Contains(documents, "kind: Gateway") {
		documents = GatewayDocument(n.engine, "") + "---\n" + documents
	}
	set, problems := resource.Parse(resource.File{Name: "test.yaml", Data: []byte(documents)})
	snap, more := snapshot.Compile(set, n.Gateway.Env())
	problems = append(problems, more...)
	if problems.HasErrors() || snap == nil {
		return problems
	}
	snap.Revision = 1
	if before := n.Snapshot(); before != nil {
		snap.Revision = before.Revision + 1
	}
	if n.Edit != nil {
		n.Edit(snap)
	}
	n.Gateway.Apply(snap)
	if err := n.Listen(); err != nil {
		n.T.Fatal(err)
	}
	return problems
}

// GatewayDocument is a Gateway with one listener on a free port; spec adds fields to its spec, two
// spaces deep.
func GatewayDocument(engine, spec string) string {
	return fmt.Sprintf("apiVersion: whygate/v1\nkind: Gateway\nmetadata: {name: gateway}\nspec:\n  listeners: [{address: \"127.0.0.1:0\", http1: %s}]\n%s", engine, spec)
}

// Addr is host:port of the first listener.
func (n *Node) Addr() string { return n.Addresses()[0].String() }

// URL is a URL at the first listener.
func (n *Node) URL(path string) string { return "http://" + n.Addr() + path }

// Answer is what a call was answered.
type Answer struct {
	*http.Response
	Body string
}

// Call makes a call; header lines are "Name: value". A Host line sets the host.
func (n *Node) Call(method, path, body string, header ...string) Answer {
	n.T.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, n.URL(path), content)
	if err != nil {
		n.T.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ":")
		value = strings.TrimSpace(value)
		if strings.EqualFold(name, "host") {
			req.Host = value
		} else {
			req.Header.Add(name, value)
		}
	}
	return n.Do(req)
}

var noRedirects = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       20 * time.Second,
}

// Do makes a prepared call.
func (n *Node) Do(req *http.Request) Answer {
	n.T.Helper()
	res, err := noRedirects.Do(req)
	if err != nil {
		n.T.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		n.T.Fatalf("%s %s: reading the answer: %v", req.Method, req.URL, err)
	}
	return Answer{res, string(b)}
}

// Raw sends bytes on a connection of its own and returns all that comes back until the
// gateway closes or, once something came, nothing more has come for wait.
func (n *Node) Raw(send string, wait time.Duration) string {
	n.T.Helper()
	nc, err := net.Dial("tcp", n.Addr())
	if err != nil {
		n.T.Fatal(err)
	}
	defer nc.Close()
	if _, err := io.WriteString(nc, send); err != nil {
		return ""
	}
	var all bytes.Buffer
	buf := make([]byte, 32<<10)
	for {
		pause := wait
		if all.Len() == 0 {
			pause = patience
		}
		nc.SetReadDeadline(time.Now().Add(pause))
		m, err := nc.Read(buf)
		all.Write(buf[:m])
		if err != nil {
			return all.String()
		}
	}
}

// Record waits for the record of an answer.
func (n *Node) Record(a Answer) calllog.Record {
	n.T.Helper()
	id, err := calllog.ParseID(a.Header.Get("Whygate-Call"))
	if err != nil {
		n.T.Fatalf("the answer has no call id: %v", a.Header)
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		rec, ok, err := n.Journal.Find(id)
		if err != nil {
			n.T.Fatal(err)
		}
		if ok {
			return rec
		}
	}
	n.T.Fatalf("call %s has no record", id)
	return calllog.Record{}
}

// Last is the newest record for which ok holds; it waits for one.
func (n *Node) Last(ok func(*calllog.Record) bool) calllog.Record {
	n.T.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		recs, err := n.Journal.Last(50, calllog.Filter{})
		if err != nil {
			n.T.Fatal(err)
		}
		for _, r := range recs {
			if ok(&r) {
				return r
			}
		}
	}
	n.T.Fatal("no such record")
	return calllog.Record{}
}

// Upstream serves a handler on loopback.
func Upstream(t testing.TB, h http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// RawUpstream gives each connection to f, with a reader on it. f owns the connection.
func RawUpstream(t testing.TB, f func(nc net.Conn, r *bufio.Reader)) (address string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var open sync.Map
	t.Cleanup(func() {
		ln.Close()
		open.Range(func(nc, _ any) bool { nc.(net.Conn).Close(); return true })
	})
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			open.Store(nc, true)
			go func() {
				defer nc.Close()
				defer open.Delete(nc)
				f(nc, bufio.NewReader(nc))
			}()
		}
	}()
	return ln.Addr().String()
}

// ReadRequest reads one request and its body.
func ReadRequest(r *bufio.Reader) (*http.Request, string, error) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(req.Body)
	return req, string(b), err
}

// API is an upstream at url and an API with everything below base; policies are lines of a
// YAML list, "- key-auth: {}", indented by four spaces.
func API(url, base, policies string) string {
	doc := fmt.Sprintf("apiVersion: whygate/v1\nkind: Upstream\nmetadata: {name: up}\nspec: {targets: [{url: %q}]}\n---\napiVersion: whygate/v1\nkind: API\nmetadata: {name: api}\nspec:\n  upstream: up\n  basePath: %s\n  owner: {team: owners, contact: owners@shop.test}\n", url, base)
	if policies != "" {
		doc += "  policies:\n" + policies + "\n"
	}
	return doc
}

// Log collects what a node logs.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write adds a line.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String is everything logged so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
