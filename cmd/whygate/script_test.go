package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/whygate/whygate/whytest/redisserver"
)

// The scenarios in examples/*.txtar are terminal sessions that are documentation and tests at once. They
// run the real commands as processes of their own. What they may use besides:
//
//	sample                    start the sample shop; documents name it as http://127.0.0.1:9000
//	issuer                    start an OpenID provider; documents name it as http://127.0.0.1:9100
//	issuer rotate|down|up     give it a new key, take it away, bring it back; revoke ends the token in $TOKEN
//	token NAME CLAIM=VALUE…   put a token of it into $NAME, with claims changed
//	serve ARGS                start `whygate serve ARGS` and wait until it takes calls; $GATEWAY is its URL,
//	                          $ADDRESS its address alone, $PORT its port
//	drain                     end it with SIGTERM; it must exit with 0
//	crash                     end it with SIGKILL
//	hup                       send it SIGHUP
//	log TEXT                  wait until its log says that
//	geodb FILE ENTRY...       make a MaxMind-format database of entries '203.0.113.0/24 DE AS64496'; - for no country
//	curl ARGS                 a small curl: -s -i -k -m -X -H -A -d -F -b -c -o -w --cert --key --http2; in -d and -H, "size:N" stands for N
//	                          bytes; in -d "gzip:N" for N bytes that are compressed; cookie files hold a line name=value for each
//	certificate NAME WORDS    make the files NAME.crt and NAME.key, signed by themselves or "by CA"; "authority" makes
//	                          one that can sign others, "expired" and "early" one that is not valid now
//	sign KEY FILE METHOD URL  sign a call by RFC 9421 with the secret in FILE, as $INPUT and $SIGNATURE for the fields; behind it
//	                          age=, expires=, nonce=, body= (digest in $DIGEST) and only= (components)
//	authorizer [stop]         start an authorizer, which documents name as http://127.0.0.1:9001, or stop it: it lets "Bearer ann" in,
//	                          refuses other tokens, and sends browsers without any to a login
//	curl-is STATUS ARGS       succeed when curl is answered with that status
//	tcp ADDRESS FILE          send a file with CRLF at the end of its lines and print what comes back
//	redis ARGS                start a Redis or Valkey server with those arguments, where documents name it as
//	                          127.0.0.1:6379; [redis] says whether this machine has one
//	redis-crash, redis-again  end it with SIGKILL; start it again
//	keep NAME                 put the last standard output into $NAME
//	says TEXT                 the last command printed that, however it was spaced and wrapped
//	shows FILE                the last command printed just that; … in the file stands for anything in a line,
//	                          a line of it for any lines
//	edit FILE OLD NEW         replace a text in a file
//	exits CODE ARGS           like exec, of a command that ends with this exit code
//	nginx FILE                start nginx with that configuration, where FILE and the scenario name it as 127.0.0.1:8081; [nginx] says
//	                          whether this machine has one
//	until ARGS                repeat `exec ARGS` until it succeeds, or with ! fails, for at most ten seconds
//	eventually TEXT ARGS      repeat it until it says TEXT
//	watch FILE ARGS           start a command in the background, whose output goes into that file
//	until-seen TEXT FILE ARGS repeat `exec ARGS` until the file says TEXT
//	shell COMMAND             run it with sh, which calls the gateway at 127.0.0.1:8080
//	interrupt FILE            end what watch started with Ctrl-C; it must exit with 0
//
// To says and shows the sample is at 127.0.0.1:9000, the issuer at 127.0.0.1:9100 and the gateway at 127.0.0.1:8080, wherever they are.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"whygate": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		},
		"curl":    func() { os.Exit(curl(os.Args[1:], os.Stdout, os.Stderr)) },
		"curl-is": func() { os.Exit(curlIs(os.Args[1], os.Args[2:])) },
		"tcp":     func() { os.Exit(tcp(os.Args[1], os.Args[2], os.Stdout, os.Stderr)) },
	})
}

func TestScenarios(t *testing.T) { testscript.Run(t, scriptParams("../../examples")) }

// scriptParams are how the scenarios of a folder are run.
func scriptParams(dir string) testscript.Params {
	return testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("WHYGATE_DATA", filepath.Join(env.WorkDir, ".data"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // or every command takes a second under the race detector
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "redis":
				_, err := redisserver.Binary()
				return err == nil, nil
			case "nginx":
				_, err := nginxBinary()
				return err == nil, nil
			}
			return false, fmt.Errorf("there is no condition %q", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"sample": scriptSample, "serve": scriptServe, "drain": scriptDrain, "crash": scriptCrash, "hup": scriptHup, "log": scriptLog,
			"geodb": scriptGeoDB, "issuer": scriptIssuer, "token": scriptToken,
			"certificate": scriptCertificate, "revoke": scriptRevoke, "sign": scriptSign, "authorizer": scriptAuthorizer, "keep": scriptKeep, "says": scriptSays, "shows": scriptShows, "edit": scriptEdit, "exits": scriptExits, "nginx": scriptNginx, "until": scriptUntil, "eventually": scriptEventually,
			"watch": scriptWatch, "until-seen": scriptUntilSeen, "interrupt": scriptInterrupt, "shell": scriptShell,
			"redis": scriptRedis, "redis-crash": scriptRedisCrash, "redis-again": scriptRedisAgain,
		},
	}
}

// scriptSample starts the shop and points the documents of the scenario at it.
func scriptSample(ts *testscript.TestScript, neg bool, args []string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	ts.Defer(cancel)
	go serveSample(ctx, ln)
	ts.Setenv("SAMPLE", ln.Addr().String())
	replaceInDocuments(ts, "127.0.0.1:9000", ln.Addr().String())
}

func replaceInDocuments(ts *testscript.TestScript, old, address string) {
	ts.Check(filepath.WalkDir(ts.Getenv("WORK"), func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".yaml" && filepath.Ext(name) != ".json" {
			return err
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(name, bytes.ReplaceAll(b, []byte(old), []byte(address)), 0o644)
	}))
}

func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("exits CODE COMMAND")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		code = ended.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("%v ends with %d, not %s", args[1:], code, args[0])
	}
}

// nginxBinary is Debian's, which is not in everybody's path.
func nginxBinary() (string, error) {
	if name, err := exec.LookPath("nginx"); err == nil {
		return name, nil
	}
	return exec.LookPath("/usr/sbin/nginx")
}

// scriptNginx starts an nginx of the scenario's own, on a free port of the loopback address.
func scriptNginx(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("nginx FILE")
	}
	program, err := nginxBinary()
	ts.Check(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	address := ln.Addr().String()
	ts.Check(ln.Close())
	file := ts.MkAbs(args[0])
	conf, err := os.ReadFile(file)
	ts.Check(err)
	ts.Check(os.WriteFile(file, bytes.ReplaceAll(conf, []byte("127.0.0.1:8081"), []byte(address)), 0o644))
	cmd := exec.Command(program, "-p", ts.Getenv("WORK")+"/", "-c", file, "-e", ts.MkAbs("error.log"), "-g", "daemon off;")
	var output lines
	cmd.Stdout, cmd.Stderr = &output, &output
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ts.Defer(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
		}
	})
	ts.Setenv("NGINX", address)
	for range 500 {
		nc, err := net.Dial("tcp", address)
		if err == nil {
			nc.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			ts.Fatalf("nginx ended: %v\n%s", err, &output)
		case <-time.After(20 * time.Millisecond):
		}
	}
	ts.Fatalf("nginx does not listen:\n%s", &output)
}

// stores are the Redis servers of all scripts, by working directory.
var stores sync.Map

func storeOf(ts *testscript.TestScript) *redisserver.Server {
	s, ok := stores.Load(ts.Getenv("WORK"))
	if !ok {
		ts.Fatalf("no Redis has been started")
	}
	return s.(*redisserver.Server)
}

func scriptRedis(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(".redis")
	ts.Check(os.MkdirAll(dir, 0o755))
	s, err := redisserver.Start(dir, args...)
	ts.Check(err)
	ts.Defer(s.Kill)
	stores.Store(ts.Getenv("WORK"), s)
	ts.Setenv("REDIS", s.Addr)
	replaceInDocuments(ts, "127.0.0.1:6379", s.Addr)
}

func scriptRedisCrash(ts *testscript.TestScript, neg bool, args []string) { storeOf(ts).Kill() }

func scriptRedisAgain(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(storeOf(ts).Again())
}

// served is a node that a script runs.
type served struct {
	cmd    *exec.Cmd
	output lines
	done   chan error
}

// lines is what a node has logged so far.
type lines struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// running are the nodes of all scripts, by working directory. Scripts run side by side.
var running sync.Map

func nodeOf(ts *testscript.TestScript) *served {
	s, ok := running.Load(ts.Getenv("WORK"))
	if !ok {
		ts.Fatalf("no node has been started")
	}
	return s.(*served)
}

func scriptServe(ts *testscript.TestScript, neg bool, args []string) {
	data := ts.Getenv("WHYGATE_DATA")
	os.Remove(filepath.Join(data, nodeFile))
	whygate, err := exec.LookPath("whygate")
	if err != nil {
		whygate = filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], "whygate")
	}
	if !strings.Contains(strings.Join(args, " "), "--listen") {
		args = append(args, "--listen", "127.0.0.1:0")
	}
	args = append([]string{"serve"}, append(args, "--admin", "127.0.0.1:0", "--node", "gw-1")...)
	s := &served{cmd: exec.Command(whygate, args...), done: make(chan error, 1)}
	s.cmd.Dir, s.cmd.Env = ts.Getenv("WORK"), scriptEnv(ts)
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	ts.Check(s.cmd.Start())
	go func() { s.done <- s.cmd.Wait() }()
	running.Store(ts.Getenv("WORK"), s)
	ts.Defer(func() {
		s.cmd.Process.Kill()
		if ts.Getenv("SHOWLOG") != "" {
			ts.Logf("node: %s", &s.output)
		}
	})
	for range 500 {
		select {
		case err := <-s.done:
			ts.Fatalf("serve ended: %v\n%s", err, &s.output)
		default:
		}
		if n, err := readNode(data); err == nil && len(n.Listeners) > 0 {
			ts.Setenv("GATEWAY", "http://"+n.Listeners[0])
			ts.Setenv("ADDRESS", n.Listeners[0])
			_, port, _ := net.SplitHostPort(n.Listeners[0])
			ts.Setenv("PORT", port)
			ts.Setenv("ADMIN", "http://"+n.Admin)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("serve did not start:\n%s", &s.output)
}

// scriptEnv is the environment of commands that a script has running.
func scriptEnv(ts *testscript.TestScript) (env []string) {
	for _, name := range []string{"WHYGATE_DATA", "HOME", "PATH", "GORACE"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}

func scriptDrain(ts *testscript.TestScript, neg bool, args []string) {
	s := nodeOf(ts)
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.done:
		if err != nil {
			ts.Fatalf("the node ended with %v\n%s", err, &s.output)
		}
	case <-time.After(20 * time.Second):
		ts.Fatalf("the node does not end\n%s", &s.output)
	}
}

func scriptCrash(ts *testscript.TestScript, neg bool, args []string) {
	s := nodeOf(ts)
	s.cmd.Process.Kill()
	<-s.done
}

func scriptHup(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(nodeOf(ts).cmd.Process.Signal(syscall.SIGHUP))
}

func scriptLog(ts *testscript.TestScript, neg bool, args []string) {
	s := nodeOf(ts)
	for range 500 {
		if strings.Contains(flat(s.output.String()), flat(args[0])) != neg {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("the log of the node does not say %q\n%s", args[0], &s.output)
}

// scriptCertificate makes a certificate: good for a day, and in no repository.
func scriptCertificate(ts *testscript.TestScript, neg bool, args []string) {
	name, words := args[0], args[1:]
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	cert := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	parent, by := cert, key
	for i, w := range words {
		switch w {
		case "authority":
			cert.IsCA, cert.BasicConstraintsValid, cert.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
		case "expired":
			cert.NotBefore, cert.NotAfter = time.Now().Add(-72*time.Hour), time.Now().Add(-48*time.Hour)
		case "early":
			cert.NotBefore, cert.NotAfter = time.Now().Add(48*time.Hour), time.Now().Add(72*time.Hour)
		case "by":
			pair, err := tls.LoadX509KeyPair(ts.MkAbs(words[i+1]+".crt"), ts.MkAbs(words[i+1]+".key"))
			ts.Check(err)
			parent, by = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, by)
	ts.Check(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	ts.Check(os.WriteFile(ts.MkAbs(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
}

// scriptRevoke writes the revocation list of an authority: revoke AUTHORITY NAME… [expired].
func scriptRevoke(ts *testscript.TestScript, neg bool, args []string) {
	pair, err := tls.LoadX509KeyPair(ts.MkAbs(args[0]+".crt"), ts.MkAbs(args[0]+".key"))
	ts.Check(err)
	now := time.Now()
	list := &x509.RevocationList{Number: big.NewInt(now.UnixNano()), ThisUpdate: now.Add(-2 * time.Hour), NextUpdate: now.Add(time.Hour)}
	for _, name := range args[1:] {
		if name == "expired" {
			list.NextUpdate = now.Add(-time.Hour)
			continue
		}
		block, _ := pem.Decode([]byte(ts.ReadFile(name + ".crt")))
		cert, err := x509.ParseCertificate(block.Bytes)
		ts.Check(err)
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: cert.SerialNumber, RevocationTime: now.Add(-time.Hour), ReasonCode: 1})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".crl"), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o644))
}

// scriptSign signs a call as a client does.
func scriptSign(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 4 {
		ts.Fatalf("sign KEY FILE METHOD URL")
	}
	secret := bytes.TrimSpace([]byte(ts.ReadFile(args[1])))
	u, err := url.Parse(args[3])
	ts.Check(err)
	components := []string{"@method", "@authority", "@path", "@query"}
	values := map[string]string{"@method": args[2], "@authority": u.Host, "@path": u.EscapedPath(), "@query": "?" + u.RawQuery}
	created, more := time.Now(), ""
	for _, option := range args[4:] {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "age", "expires":
			d, err := time.ParseDuration(value)
			ts.Check(err)
			if name == "age" {
				created = created.Add(-d)
			} else {
				more += fmt.Sprintf(";expires=%d", created.Add(d).Unix())
			}
		case "nonce":
			more += fmt.Sprintf(";nonce=%q", value)
		case "alg":
			more += fmt.Sprintf(";alg=%q", value)
		case "body":
			sum := sha256.Sum256([]byte(value))
			values["content-digest"] = "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
			components = append(components, "content-digest")
			ts.Setenv("DIGEST", values["content-digest"])
		case "only":
			components = strings.Split(value, ",")
		}
	}
	base := ""
	for _, c := range components {
		base += fmt.Sprintf("%q: %s\n", c, values[c])
	}
	params := fmt.Sprintf(`("%s");created=%d%s;keyid=%q`, strings.Join(components, `" "`), created.Unix(), more, args[0])
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(base + `"@signature-params": ` + params))
	ts.Setenv("INPUT", "sig1="+params)
	ts.Setenv("SIGNATURE", "sig1=:"+base64.StdEncoding.EncodeToString(mac.Sum(nil))+":")
}

// authorizers are those of all scripts, by working directory.
var authorizers sync.Map

func scriptAuthorizer(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) > 0 {
		a, _ := authorizers.Load(ts.Getenv("WORK"))
		a.(*http.Server).Close()
		return
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		switch {
		case token == "ann":
			w.Header().Set("X-User", "ann")
			w.Header().Set("X-Asked-About", r.Header.Get("X-Forwarded-Method")+" "+r.Header.Get("X-Forwarded-Uri"))
		case token == "broken":
			w.WriteHeader(500)
		case token != "":
			w.WriteHeader(403)
			fmt.Fprintln(w, "this token may not order teapots")
		case strings.Contains(r.Header.Get("Accept"), "text/html"):
			http.SetCookie(w, &http.Cookie{Name: "back", Value: "here"})
			http.Redirect(w, r, "https://login.shop.test/", http.StatusFound)
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="shop"`)
			w.WriteHeader(401)
		}
	})}
	authorizers.Store(ts.Getenv("WORK"), srv)
	go srv.Serve(ln)
	ts.Defer(func() { srv.Close() })
	ts.Setenv("AUTHORIZER", ln.Addr().String())
	replaceInDocuments(ts, "127.0.0.1:9001", ln.Addr().String())
}

// scriptGeoDB writes a database as makers of such do, complete or not at all.
func scriptGeoDB(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("geodb FILE ENTRY...")
	}
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Sample-Country-ASN", IncludeReservedNetworks: true})
	ts.Check(err)
	for _, entry := range args[1:] {
		parts := strings.Fields(entry)
		_, network, err := net.ParseCIDR(parts[0])
		ts.Check(err)
		record := mmdbtype.Map{}
		if len(parts) > 1 && parts[1] != "-" {
			record["country"] = mmdbtype.Map{"iso_code": mmdbtype.String(parts[1])}
		}
		if len(parts) > 2 {
			n, err := strconv.ParseUint(strings.TrimPrefix(parts[2], "AS"), 10, 32)
			ts.Check(err)
			record["autonomous_system_number"] = mmdbtype.Uint32(n)
		}
		ts.Check(tree.Insert(network, record))
	}
	file, err := os.Create(ts.MkAbs(args[0]) + ".new")
	ts.Check(err)
	_, err = tree.WriteTo(file)
	ts.Check(err)
	ts.Check(file.Close())
	ts.Check(os.Rename(file.Name(), ts.MkAbs(args[0])))
}

func scriptKeep(ts *testscript.TestScript, neg bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// printed is what the last command printed, with the addresses that a reader would have.
func printed(ts *testscript.TestScript) string {
	text := ts.ReadFile("stdout") + ts.ReadFile("stderr")
	for name, usual := range map[string]string{"SAMPLE": "127.0.0.1:9000", "AUTHORIZER": "127.0.0.1:9001", "ISSUER": "127.0.0.1:9100", "REDIS": "127.0.0.1:6379", "ADDRESS": "127.0.0.1:8080", "NGINX": "127.0.0.1:8081"} {
		if a := ts.Getenv(name); a != "" {
			text = strings.ReplaceAll(text, a, usual)
		}
	}
	return text
}

func flat(s string) string { return strings.Join(strings.Fields(s), " ") }

func scriptSays(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("says TEXT")
	}
	text := printed(ts)
	if (strings.Contains(flat(text), flat(args[0])) || strings.Contains(flat(rightmost.ReplaceAllString(text, "")), flat(args[0]))) == neg {
		ts.Fatalf("%s says %q:\n%s", map[bool]string{true: "this", false: "nothing"}[neg], args[0], text)
	}
}

// rightmost is what stands at the right margin, in the middle of a text that was wrapped.
var rightmost = regexp.MustCompile(`(?m) {2,}(\S+:\d+|[a-zA-Z' ]+ can)$`)

func scriptShows(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("shows FILE")
	}
	want, have := strings.TrimSpace(ts.ReadFile(args[0]))+"\n", strings.TrimSpace(printed(ts))+"\n"
	var form strings.Builder
	form.WriteString(`^`)
	for line := range strings.SplitAfterSeq(want, "\n") {
		if line == "…\n" {
			form.WriteString(`(?:.*\n)*?`)
			continue
		}
		form.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*"))
	}
	if !regexp.MustCompile(form.String() + `$`).MatchString(have) {
		ts.Fatalf("%s shows\n%s\nand this was printed:\n%s", args[0], want, have)
	}
}

func scriptEdit(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("edit FILE OLD NEW")
	}
	file := ts.MkAbs(args[0])
	b, err := os.ReadFile(file)
	ts.Check(err)
	if !bytes.Contains(b, []byte(args[1])) {
		ts.Fatalf("%s does not contain %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(file, bytes.Replace(b, []byte(args[1]), []byte(strings.ReplaceAll(args[2], `\n`, "\n")), 1), 0o644))
}

func scriptUntil(ts *testscript.TestScript, neg bool, args []string) {
	var err error
	for range 100 {
		if err = ts.Exec(args[0], args[1:]...); (err == nil) != neg {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	ts.Fatalf("%v never came true: %v", args, err)
}

func scriptEventually(ts *testscript.TestScript, neg bool, args []string) {
	for range 100 {
		if ts.Exec(args[1], args[2:]...); strings.Contains(flat(printed(ts)), flat(args[0])) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	ts.Fatalf("%v never says %q", args[1:], args[0])
}

// watched are the commands that watch started, by the files of their output.
var watched sync.Map

func scriptWatch(ts *testscript.TestScript, neg bool, args []string) {
	file := ts.MkAbs(args[0])
	out, err := os.Create(file)
	ts.Check(err)
	defer out.Close()
	program, err := exec.LookPath(args[1])
	if err != nil {
		program = filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], args[1])
	}
	cmd := exec.Command(program, args[2:]...)
	cmd.Dir, cmd.Env = ts.Getenv("WORK"), scriptEnv(ts)
	cmd.Stdout = out
	ts.Check(cmd.Start())
	ts.Defer(func() { cmd.Process.Kill() })
	watched.Store(file, cmd)
}

func scriptUntilSeen(ts *testscript.TestScript, neg bool, args []string) {
	for range 200 {
		ts.Check(ts.Exec(args[2], args[3:]...))
		if strings.Contains(flat(ts.ReadFile(args[1])), flat(args[0])) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("%s never says %q:\n%s", args[1], args[0], ts.ReadFile(args[1]))
}

func scriptInterrupt(ts *testscript.TestScript, neg bool, args []string) {
	v, ok := watched.Load(ts.MkAbs(args[0]))
	if !ok {
		ts.Fatalf("nothing writes into %s", args[0])
	}
	cmd := v.(*exec.Cmd)
	ts.Check(cmd.Process.Signal(os.Interrupt))
	if err := cmd.Wait(); err != nil {
		ts.Fatalf("%v ended with %v", cmd.Args, err)
	}
}

// curlIs compares the status of an answer.
func curlIs(status string, args []string) int {
	var out bytes.Buffer
	if code := curl(append([]string{"-o", os.DevNull, "-w", "%{http_code}"}, args...), &out, io.Discard); code != 0 {
		return code
	}
	if out.String() != status {
		fmt.Println("the status is", out.String())
		return 1
	}
	return 0
}

// tcp sends what no client would.
func tcp(address, file string, out, errOut io.Writer) int {
	b, err := os.ReadFile(file)
	if err == nil {
		var nc net.Conn
		if nc, err = net.Dial("tcp", address); err == nil {
			defer nc.Close()
			nc.SetDeadline(time.Now().Add(10 * time.Second))
			nc.Write(bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")))
			b, err = io.ReadAll(nc)
			out.Write(bytes.ReplaceAll(b, []byte("\r"), nil))
		}
	}
	if err != nil {
		fmt.Fprintln(errOut, "tcp:", err)
		return 1
	}
	return 0
}

// curl is as much of the real one as the scenarios need, so that they run where there is none.
func curl(args []string, out, errOut io.Writer) int {
	method, body, url, file, format, jar := "", "", "", "", "", ""
	var form bytes.Buffer
	parts := multipart.NewWriter(&form)
	cert, key := "", ""
	head, silent, insecure, http2 := false, false, false, false
	patience := 30 * time.Second
	var header []string
	for i := 0; i < len(args); i++ {
		next := func() string { i++; return args[i] }
		switch a := args[i]; a {
		case "-i":
			head = true
		case "-s":
			silent = true
		case "-k":
			insecure = true
		case "--http2":
			http2 = true
		case "-m":
			patience, _ = time.ParseDuration(next() + "s")
		case "-X":
			method = next()
		case "-H":
			header = append(header, next())
		case "-d":
			body = next()
		case "-F":
			name, value, _ := strings.Cut(next(), "=")
			parts.WriteField(name, value)
		case "-A":
			header = append(header, "User-Agent: "+next())
		case "-b":
			if cookies := next(); strings.Contains(cookies, "=") {
				header = append(header, "Cookie: "+cookies)
			} else if b, err := os.ReadFile(cookies); err == nil && len(b) > 0 {
				header = append(header, "Cookie: "+strings.Join(strings.Fields(string(b)), "; "))
			}
		case "-c":
			jar = next()
		case "--cert":
			cert = next()
		case "--key":
			key = next()
		case "-o":
			file = next()
		case "-w":
			format = next()
		default:
			url = a
		}
	}
	if form.Len() > 0 {
		parts.Close()
		body = form.String()
		header = append(header, "Content-Type: "+parts.FormDataContentType())
	}
	if method == "" {
		method = "GET"
		if body != "" {
			method = "POST"
		}
	}
	content, size := sized(body)
	req, err := http.NewRequest(method, url, content)
	if err != nil {
		fmt.Fprintln(errOut, "curl:", err)
		return 3
	}
	req.ContentLength = size
	req.Header.Set("User-Agent", "curl/8.0")
	req.Header.Set("Accept", "*/*")
	for _, h := range header {
		name, value, _ := strings.Cut(h, ":")
		value = strings.TrimSpace(value)
		if v, n := sized(value); strings.HasPrefix(value, "size:") && n > 0 {
			b, _ := io.ReadAll(v)
			value = strings.Repeat("x", len(b))
		}
		switch empty, isEmpty := strings.CutSuffix(name, ";"); {
		case isEmpty && value == "":
			req.Header.Set(empty, "")
		case strings.EqualFold(name, "host"):
			req.Host = value
		case strings.EqualFold(name, "transfer-encoding"):
			req.ContentLength = -1
		case strings.EqualFold(name, "user-agent"), strings.EqualFold(name, "accept"):
			req.Header.Set(name, value)
		default:
			req.Header.Add(name, value)
		}
	}
	config := &tls.Config{InsecureSkipVerify: insecure}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			fmt.Fprintln(errOut, "curl:", err)
			return 58
		}
		config.Certificates = []tls.Certificate{pair}
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: http2},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		if !silent {
			fmt.Fprintln(errOut, "curl:", err)
		}
		return 7
	}
	defer res.Body.Close()
	if jar != "" && len(res.Cookies()) > 0 {
		var lines strings.Builder
		for _, c := range res.Cookies() {
			fmt.Fprintf(&lines, "%s=%s\n", c.Name, c.Value)
		}
		if err := os.WriteFile(jar, []byte(lines.String()), 0o600); err != nil {
			fmt.Fprintln(errOut, "curl:", err)
			return 23
		}
	}
	if head {
		fmt.Fprintf(out, "%s %s\n", res.Proto, res.Status)
		var fields bytes.Buffer
		res.Header.Write(&fields)
		fmt.Fprintln(out, strings.ReplaceAll(fields.String(), "\r", ""))
	}
	target := out
	if file != "" {
		f, err := os.Create(file)
		if err != nil {
			return 23
		}
		defer f.Close()
		target = f
	}
	if _, err := io.Copy(target, res.Body); err != nil {
		fmt.Fprintln(errOut, "curl:", err)
		return 18
	}
	fmt.Fprint(out, variable.ReplaceAllStringFunc(strings.ReplaceAll(format, `\n`, "\n"), func(v string) string {
		if v == "%{http_code}" {
			return fmt.Sprint(res.StatusCode)
		}
		return res.Header.Get(strings.TrimSuffix(strings.TrimPrefix(v, "%header{"), "}"))
	}))
	return 0
}

// variable is what -w replaces.
var variable = regexp.MustCompile(`%\{http_code\}|%header\{[\w-]+\}`)

// sized is the text of an argument, or as many bytes as it asks for.
func sized(arg string) (io.Reader, int64) {
	if n, ok := strings.CutPrefix(arg, "size:"); ok {
		var size int64
		fmt.Sscan(n, &size)
		return io.LimitReader(zeros{}, size), size
	}
	if n, ok := strings.CutPrefix(arg, "gzip:"); ok {
		var size int64
		fmt.Sscan(n, &size)
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		io.Copy(z, io.LimitReader(zeros{}, size))
		z.Close()
		return &b, int64(b.Len())
	}
	return strings.NewReader(arg), int64(len(arg))
}
