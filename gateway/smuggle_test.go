package gateway_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/whytest"
)

// view is a whole request as an origin saw it.
type view struct {
	Method, Target, Body string
	Call                 string // Whygate-Call, by which the gateway knows it
	Nonce                string // of an innocent request
	Status               string // nginx tells requests that it refused, too
}

func (v view) String() string {
	return fmt.Sprintf("%s %s %.60q (%d bytes, call %s)", v.Method, v.Target, v.Body, len(v.Body), v.Call)
}

// origin is a real server that keeps what it saw, and tells each client what it saw of their request in
// the fields X-Saw and X-Saw-Call.
type origin struct {
	url  string
	mu   sync.Mutex
	seen []view
}

func (o *origin) add(v view) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen = append(o.seen, v)
}

// since is what it saw after the first n requests.
func (o *origin) since(n int) []view {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]view(nil), o.seen[n:]...)
}

// follow adds a view per line of JSON.
func (o *origin) follow(r io.Reader) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var v view
		if json.Unmarshal(line, &v) == nil && v.Method != "" && (v.Status == "" || v.Status == "200") {
			o.add(v)
		}
	}
}

func goOrigin(t *testing.T) *origin {
	o := &origin{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		v := view{Method: r.Method, Target: r.RequestURI, Body: string(b), Call: strings.Join(r.Header["Whygate-Call"], "+"), Nonce: r.Header.Get("X-Nonce")}
		o.add(v)
		w.Header().Set("X-Saw", v.Method+" "+v.Target)
		w.Header().Set("X-Saw-Call", v.Call)
		io.WriteString(w, "nonce "+v.Nonce)
	}))
	t.Cleanup(s.Close)
	o.url = s.URL
	return o
}

const nodeScript = `
const http = require('http');
const server = http.createServer((q, r) => {
  let body = '';
  q.setEncoding('latin1');
  q.on('data', d => { body += d; });
  q.on('end', () => {
    const call = q.headers['whygate-call'] || '', nonce = q.headers['x-nonce'] || '';
    console.log(JSON.stringify({Method: q.method, Target: q.url, Body: body, Call: call, Nonce: nonce}));
    r.setHeader('X-Saw', q.method + ' ' + q.url);
    r.setHeader('X-Saw-Call', call);
    r.end('nonce ' + nonce);
  });
});
server.listen(0, '127.0.0.1', () => console.log('listening ' + server.address().port));
`

func nodeOrigin(t *testing.T) *origin {
	bin, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed")
	}
	script := filepath.Join(t.TempDir(), "origin.js")
	if err := os.WriteFile(script, []byte(nodeScript), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, script)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	o := &origin{}
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "listening ") {
		t.Fatalf("node said %q, %v", line, err)
	}
	o.url = "http://127.0.0.1:" + strings.TrimSpace(strings.TrimPrefix(line, "listening "))
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.follow(r)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
		cmd.Wait()
	})
	return o
}

// nginx reads bodies by passing the request on to a second server of its own; the log of the first one is
// what it saw.
const nginxConfig = `
daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;
events { worker_connections 512; }
http {
  log_format view escape=json '{"Method":"$request_method","Target":"$request_uri","Body":"$request_body","Call":"$http_whygate_call","Nonce":"$http_x_nonce","Status":"$status"}';
  access_log off;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  client_body_buffer_size 1m; client_max_body_size 10m; keepalive_requests 1000000;
  large_client_header_buffers 8 32k;
  server {
    listen 127.0.0.1:{port};
    access_log {dir}/view.log view;
    add_header X-Saw "$request_method $request_uri" always;
    add_header X-Saw-Call $http_whygate_call always;
    location / { proxy_pass http://127.0.0.1:{second}; }
  }
  server {
    listen 127.0.0.1:{second};
    location / { return 200 "nonce $http_x_nonce"; }
  }
}
`

func nginxOrigin(t *testing.T) *origin {
	bin, err := exec.LookPath("nginx")
	if err != nil {
		bin = "/usr/sbin/nginx"
		if _, err := os.Stat(bin); err != nil {
			t.Skip("nginx is not installed")
		}
	}
	dir := t.TempDir()
	var ports []string
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		ports = append(ports, port)
		ln.Close()
	}
	config := strings.NewReplacer("{dir}", dir, "{port}", ports[0], "{second}", ports[1]).Replace(nginxConfig)
	log := filepath.Join(dir, "view.log")
	for name, text := range map[string]string{filepath.Join(dir, "nginx.conf"): config, log: ""} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(bin, "-p", dir, "-e", filepath.Join(dir, "error.log"), "-c", filepath.Join(dir, "nginx.conf"))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	o := &origin{url: "http://127.0.0.1:" + ports[0]}
	views, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		o.follow(&tail{views, stop})
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		close(stop)
		<-done
		views.Close()
	})
	whytest.Eventually(t, "nginx listens", func() bool {
		nc, err := net.Dial("tcp", "127.0.0.1:"+ports[0])
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	return o
}

// tail reads a file that grows.
type tail struct {
	f    *os.File
	stop chan struct{}
}

func (t *tail) Read(p []byte) (int, error) {
	for {
		if n, err := t.f.Read(p); n > 0 || err != io.EOF {
			return n, err
		}
		select {
		case <-t.stop:
			return 0, io.EOF
		case <-time.After(time.Millisecond):
		}
	}
}

// smuggle is one case of the corpus; testdata/smuggle/README.md describes its form.
type smuggle struct {
	name    string
	expect  string
	saw     []view
	send    string
	fields  []string // of HTTP/2
	http2   bool
	served  int    // of expect; -1 where anything may be
	refused string // rule, "" for none
	cut     bool
}

var (
	repeated = regexp.MustCompile(`\{([^{}]+)\*(\d+)\}`)
	escaped  = regexp.MustCompile(`\\(x[0-9a-f]{2}|.)`)
)

// plain resolves repetitions, inner ones first, and escapes of a line.
func plain(s string) string {
	for repeated.MatchString(s) {
		s = repeated.ReplaceAllStringFunc(s, func(r string) string {
			m := repeated.FindStringSubmatch(r)
			n, _ := strconv.Atoi(m[2])
			return strings.Repeat(m[1], n)
		})
	}
	return escaped.ReplaceAllStringFunc(s, func(e string) string {
		switch e[1] {
		case 'r':
			return "\r"
		case 'n':
			return "\n"
		case 't':
			return "\t"
		case '0':
			return "\x00"
		case 'x':
			n, _ := strconv.ParseUint(e[2:], 16, 8)
			return string([]byte{byte(n)})
		}
		return e[1:]
	})
}

// readCorpus reads all cases.
func readCorpus(t testing.TB) (cases []*smuggle) {
	files, err := filepath.Glob("../wire/testdata/smuggle/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("the corpus is missing", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var lines, fields []string
		var family string
		var c *smuggle
		base := strings.TrimSuffix(filepath.Base(file), ".txt")
		finish := func(c *smuggle, text string) {
			if c == nil {
				return
			}
			c.http2 = strings.HasPrefix(base, "http2")
			c.name = base + ": " + c.name
			for _, l := range lines {
				l = strings.Replace(l, "{}", text, 1)
				if more, ok := strings.CutPrefix(l, "|+"); ok {
					c.send += plain(more)
				} else {
					c.send += plain(strings.TrimPrefix(strings.TrimPrefix(l, "|"), " ")) + "\r\n"
				}
			}
			for _, f := range fields {
				c.fields = append(c.fields, plain(strings.Replace(f, "{}", text, 1)))
			}
			cases = append(cases, c)
		}
		for n, l := range strings.Split(string(b)+"\n", "\n") {
			word, rest, _ := strings.Cut(l, " ")
			switch {
			case l == "" || word == "#" || word == "family" || word == "case":
				finish(c, "")
				c = nil
				if word == "family" {
					family, lines, fields = rest, nil, nil
				} else if word == "case" {
					family, c, lines, fields = "", &smuggle{name: rest}, nil, nil
				}
			case word == "expect":
				c.expect = rest
			case word == "saw":
				m := strings.SplitN(rest, " ", 3)
				body := strings.TrimSuffix(strings.TrimPrefix(m[2], `"`), `"`)
				c.saw = append(c.saw, view{Method: m[0], Target: m[1], Body: plain(body)})
			case l[0] == '|':
				lines = append(lines, l)
			case word == "%":
				fields = append(fields, rest)
			case word == "-" && family != "":
				expect, text, ok := strings.Cut(rest, " :: ")
				if !ok {
					t.Fatalf("%s:%d: %q", file, n+1, l)
				}
				finish(&smuggle{name: family + ": " + text, expect: expect}, text)
			default:
				t.Fatalf("%s:%d: %q", file, n+1, l)
			}
		}
	}
	return cases
}

// understand reads what is expected.
func (c *smuggle) understand(t testing.TB) {
	what := c.expect
	c.served, c.refused, c.cut = 0, "", false
	for _, w := range strings.Split(what, ", ") {
		verb, arg, _ := strings.Cut(w, " ")
		switch verb {
		case "served":
			n, err := strconv.Atoi(arg)
			if err != nil {
				t.Fatalf("%s: %q", c.name, what)
			}
			c.served = n
		case "refused":
			c.refused = arg
		case "reset":
			c.refused = "reset"
		case "cut":
			c.cut = true
		case "any":
			c.served = -1
		default:
			t.Fatalf("%s: %q", c.name, what)
		}
	}
}

// smuggler carries cases through one gateway to one origin.
type smuggler struct {
	t      *testing.T
	n      *whytest.Node
	o      *origin
	engine string
	nonce  int
	before int // so many requests of the origin belong to earlier cases
	known  map[calllog.ID]bool
	unseen map[string]calllog.Record // forwarded while the client left: the origin may see such a call later, or never
}

// answered is one answer as the client read it.
type answered struct {
	*http.Response
	body string
}

// TestSmuggling sends the corpus through both engines to three origins. For every case: the origin saw
// as many requests as the gateway recorded as forwarded, the same ones; each answer reached who asked;
// the next request on the client's connection, and the next one over the shared connection to the
// origin, get their own answers.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	cases := readCorpus(t)
	if len(cases) < 150 {
		t.Fatalf("only %d cases", len(cases))
	}
	origins := []struct {
		name  string
		start func(*testing.T) *origin
	}{{"go", goOrigin}, {"node", nodeOrigin}, {"nginx", nginxOrigin}}
	for _, or := range origins {
		t.Run(or.name, func(t *testing.T) {
			t.Parallel()
			o := or.start(t)
			whytest.EachEngine(t, func(t *testing.T, engine string) {
				s := &smuggler{t: t, o: o, engine: engine, before: len(o.since(0)), known: map[calllog.ID]bool{}, unseen: map[string]calllog.Record{}}
				s.n = whytest.Start(t, engine, whytest.GatewayDocument(engine, "  timeouts: {header: 10s, body: 10s, halfClosed: 10s}\n")+"---\n"+whytest.API(o.url, "/", ""))
				for _, c := range cases {
					if c.http2 && engine == "std" {
						continue // the same code as on the other
					}
					one := *c // origins are tried at the same time
					one.understand(t)
					s.run(&one)
				}
				s.settle()
			})
		})
	}
}

func (s *smuggler) run(c *smuggle) {
	before := s.before
	failed := s.t.Failed()
	var got []answered
	if c.http2 {
		s.overHTTP2(c)
	} else {
		got = s.overHTTP1(c)
	}
	s.innocent(c.name, nil, nil)
	s.compare(c, before, got)
	if s.t.Failed() && !failed {
		s.t.Logf("the first case that failed is %q: %.2000q", c.name, c.send)
	}
}

// overHTTP1 sends the case and, where the connection is still good, an innocent request behind it.
func (s *smuggler) overHTTP1(c *smuggle) (got []answered) {
	nc, err := net.Dial("tcp", s.n.Addr())
	if err != nil {
		s.t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	go func() {
		io.WriteString(nc, c.send)
		if c.cut || c.served < 0 {
			nc.(*net.TCPConn).CloseWrite()
		}
	}()
	r := bufio.NewReader(nc)
	want := c.served
	switch {
	case want < 0:
		want = 1000
	case c.refused != "" || c.cut:
		want++
	}
	for len(got) < want {
		method := "GET"
		if i := len(got); i < len(c.saw) {
			method = c.saw[i].Method
		} else if i == 0 && strings.HasPrefix(c.send, "HEAD ") {
			method = "HEAD"
		}
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			if c.served >= 0 {
				s.t.Errorf("%s: %d answers, want %d: %v", c.name, len(got), want, err)
			}
			return got
		}
		b, err := io.ReadAll(res.Body)
		if err != nil {
			s.t.Errorf("%s: reading answer %d: %v", c.name, len(got), err)
			return got
		}
		if res.StatusCode == 100 {
			continue
		}
		got = append(got, answered{res, string(b)})
	}
	if last := got[len(got)-1]; c.refused == "" && !c.cut && !last.Close && last.Header.Get("Whygate-Refused-By") == "" {
		s.innocent(c.name, nc, r)
	}
	if c.refused != "" || c.cut {
		last := got[len(got)-1]
		if !last.Close || last.Header.Get("Whygate-Refused-By") != "gateway" {
			s.t.Errorf("%s: refused with %d %v", c.name, last.StatusCode, last.Header)
		}
		rule := s.rule(last)
		want := c.refused
		if c.cut {
			want = "body-cut-short"
		}
		if rule != want {
			s.t.Errorf("%s: refused by the rule %q, want %q", c.name, rule, want)
		}
	}
	return got
}

// rule is that of the refusal in the record of an answer.
func (s *smuggler) rule(a answered) string {
	if a.Header.Get("Whygate-Call") == "" {
		return "none: the answer has no call id"
	}
	rec := s.n.Record(whytest.Answer{Response: a.Response})
	d, err := gateway.DecodeDetail(rec.Detail)
	if err != nil || d.Verdict == nil {
		return ""
	}
	f, _ := d.Verdict.Facts.Find("rule", reason.ToOperator)
	rule, _ := f.Value.(string)
	return rule
}

// innocent makes a call that has nothing to do with the case, on a connection, or on a new one when nc is nil.
func (s *smuggler) innocent(name string, nc net.Conn, r *bufio.Reader) {
	where := "behind it"
	if nc == nil {
		var err error
		if nc, err = net.Dial("tcp", s.n.Addr()); err != nil {
			s.t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(10 * time.Second))
		r = bufio.NewReader(nc)
		where = "on another connection"
	}
	s.nonce++
	nonce := fmt.Sprint(s.engine, s.nonce)
	fmt.Fprintf(nc, "GET /innocent/%s HTTP/1.1\r\nHost: a\r\nX-Nonce: %s\r\n\r\n", nonce, nonce)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		s.t.Errorf("%s: an innocent call %s: %v", name, where, err)
		return
	}
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || string(b) != "nonce "+nonce || res.Header.Get("X-Saw") != "GET /innocent/"+nonce || res.Header.Get("X-Saw-Call") != res.Header.Get("Whygate-Call") {
		s.t.Errorf("%s: an innocent call %s got %d %v %q, %v", name, where, res.StatusCode, res.Header, b, err)
	}
}

// records are those of calls that the gateway has forwarded, newer than those that are known.
func (s *smuggler) records() (list []calllog.Record) {
	recs, err := s.n.Journal.Last(200, calllog.Filter{})
	if err != nil {
		s.t.Fatal(err)
	}
	for i := len(recs) - 1; i >= 0; i-- {
		if r := recs[i]; !s.known[r.ID] && r.Tries > 0 {
			list = append(list, r)
		}
	}
	return list
}

// difference tells how what the origin saw differs from what the gateway recorded: each request that it saw
// was forwarded, once, with that method and that much content; each that was answered was seen. A call whose
// client went wrong within the body may have been forwarded and not been seen as a whole, or not yet: left
// are those.
func difference(seen []view, byCall map[string]calllog.Record) (wrong string, left map[string]calllog.Record) {
	left = maps.Clone(byCall)
	for _, v := range seen {
		r, ok := left[v.Call]
		if !ok {
			return fmt.Sprintf("the origin saw %v, which the gateway has not forwarded, or not twice", v), nil
		}
		delete(left, v.Call)
		if v.Method != r.Method || int64(len(v.Body)) != r.BytesIn {
			return fmt.Sprintf("the origin saw %v, the gateway forwarded %s %s with %d bytes", v, r.Method, r.Path, r.BytesIn), nil
		}
	}
	for call, r := range left {
		if r.Outcome == calllog.Allowed {
			return fmt.Sprintf("the gateway forwarded %s %s %s, which the origin has not seen", call, r.Method, r.Path), nil
		}
	}
	return "", left
}

// compare holds what the origin saw against what the gateway recorded.
func (s *smuggler) compare(c *smuggle, before int, got []answered) {
	for _, a := range got {
		if saw, ok := a.Header["X-Saw-Call"]; ok && a.Header.Get("Whygate-Call") != saw[0] {
			s.t.Errorf("%s: the answer to call %s is that to %s", c.name, a.Header.Get("Whygate-Call"), saw[0])
		}
	}
	var recs []calllog.Record
	var seen []view
	wrong, left := "the origin has not seen the last innocent request", map[string]calllog.Record(nil)
	for end := time.Now().Add(patience); wrong != "" && time.Now().Before(end); time.Sleep(time.Millisecond) {
		recs, seen = s.records(), s.o.since(before)
		byCall := map[string]calllog.Record{}
		maps.Copy(byCall, s.unseen)
		for _, r := range recs {
			byCall[r.ID.String()] = r
		}
		// The last innocent request comes after all that were answered.
		if slices.ContainsFunc(seen, func(v view) bool { return v.Nonce == fmt.Sprint(s.engine, s.nonce) }) {
			wrong, left = difference(seen, byCall)
		}
	}
	if wrong != "" {
		s.t.Errorf("%s: %s\nseen %v", c.name, wrong, seen)
	}
	for _, r := range recs {
		s.known[r.ID] = true
	}
	s.before = before + len(seen)
	seen = slices.DeleteFunc(seen, func(v view) bool { _, late := s.unseen[v.Call]; return late }) // of earlier cases
	s.unseen = left
	var attack []view // without the innocent ones
	for _, v := range seen {
		if (c.served >= 0 || c.http2) && strings.HasSuffix(v.Target, "/hidden") {
			s.t.Errorf("%s: the hidden request came through: %v", c.name, v)
		}
		if v.Nonce == "" {
			attack = append(attack, v)
		}
	}
	if c.served >= 0 && c.saw != nil {
		if len(attack) != len(c.saw) {
			s.t.Errorf("%s: the origin saw %v, want %v", c.name, attack, c.saw)
			return
		}
		for i, v := range attack {
			if w := c.saw[i]; v.Method != w.Method || v.Target != w.Target || w.Body != "*" && v.Body != w.Body {
				s.t.Errorf("%s: the origin saw %v, want %v", c.name, v, w)
			}
		}
	}
}

// settle looks for stragglers when all is over.
func (s *smuggler) settle() {
	time.Sleep(100 * time.Millisecond)
	if wrong, _ := difference(s.o.since(s.before), s.unseen); wrong != "" {
		s.t.Error(wrong)
	}
	calls := map[string]int{}
	for _, v := range s.o.since(0) {
		calls[v.Call]++
	}
	for call, n := range calls {
		if n > 1 || call == "" {
			s.t.Errorf("the origin saw call %q %d times", call, n)
		}
	}
}

// overHTTP2 sends the case as one stream.
func (s *smuggler) overHTTP2(c *smuggle) {
	nc, err := net.Dial("tcp", s.n.Addr())
	if err != nil {
		s.t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(nc, http2.ClientPreface)
	fr := http2.NewFramer(nc, nc)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	fr.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range c.fields {
		i := strings.Index(f[1:], ":") + 1
		enc.WriteField(hpack.HeaderField{Name: f[:i], Value: strings.TrimPrefix(f[i+1:], " ")})
	}
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: c.send == ""})
	if c.send != "" {
		fr.WriteData(1, true, []byte(c.send))
	}
	outcome, call := "", ""
	for outcome == "" {
		f, err := fr.ReadFrame()
		if err != nil {
			outcome = "reset"
			break
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			outcome = f.PseudoValue("status")
			for _, h := range f.RegularFields() {
				if h.Name == "whygate-call" {
					call = h.Value
				}
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			outcome = "reset"
		}
		if outcome == "100" {
			outcome = ""
		}
	}
	switch {
	case c.served == 1 && c.refused == "":
		if outcome != "200" {
			s.t.Errorf("%s: %s, want an answer", c.name, outcome)
		}
	case c.refused == "reset":
		if outcome != "reset" {
			s.t.Errorf("%s: %s, want a reset", c.name, outcome)
		}
	case c.refused != "":
		rule := s.rule(answered{Response: &http.Response{Header: http.Header{"Whygate-Call": {call}}}})
		if rule != c.refused {
			s.t.Errorf("%s: %s by the rule %q, want %q", c.name, outcome, rule, c.refused)
		}
	}
}
