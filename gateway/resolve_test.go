package gateway_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/whygate/whygate/whytest"
)

// zone is what the name server of these tests knows. Nothing else is asked, so no test needs a network.
var zone sync.Map // name with its dot at the end → []string of addresses

func init() {
	net.DefaultResolver.PreferGo = true
	net.DefaultResolver.Dial = func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go answerNames(server)
		return client, nil
	}
}

// answerNames is a name server on one connection, where messages carry their length (RFC 1035, section 4.2.2).
func answerNames(c net.Conn) {
	defer c.Close()
	for {
		size := make([]byte, 2)
		if _, err := io.ReadFull(c, size); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(size))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(b) != nil || len(m.Questions) != 1 {
			return
		}
		q := m.Questions[0]
		m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
		known, ok := zone.Load(q.Name.String())
		if !ok {
			m.RCode = dnsmessage.RCodeNameError
		} else {
			for _, text := range known.([]string) {
				head := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}
				switch a := netip.MustParseAddr(text); {
				case a.Is4() && q.Type == dnsmessage.TypeA:
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
				case a.Is6() && q.Type == dnsmessage.TypeAAAA:
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
				}
			}
		}
		b, err := m.AppendPack(make([]byte, 2))
		if err != nil {
			return
		}
		binary.BigEndian.PutUint16(b, uint16(len(b)-2))
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// listensAt is an upstream at an address of the loopback network, on a port that another one has on its own
// address; port 0 chooses one. It answers with its address.
func listensAt(t *testing.T, address string, port int) *httptest.Server {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(address, fmt.Sprint(port)))
	if err != nil {
		t.Skipf("this machine does not listen at %s: %v", address, err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, ln.Addr().String())
	}))
	s.Listener.Close()
	s.Listener = ln
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func portOf(s *httptest.Server) int { return s.Listener.Addr().(*net.TCPAddr).Port }

// named is an API in front of a name, which is looked up again each second; more are fields of the upstream.
func named(name string, port int, more string) string {
	url := fmt.Sprintf("http://%s:%d", name, port)
	return strings.Replace(whytest.API(url, "/", ""), "spec: {targets", "spec: {resolve: 1s, "+more+"targets", 1)
}

// A name that leads elsewhere from now on is followed without a reload, and no call fails over it.
func TestNamesAreFollowed(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		name := "moves-" + engine + ".test"
		a := listensAt(t, "127.0.0.1", 0)
		b := listensAt(t, "127.0.0.2", portOf(a))
		zone.Store(name+".", []string{"127.0.0.1"})
		n := whytest.Start(t, engine, named(name, portOf(a), ""))
		call := func() string {
			t.Helper()
			x := n.Call("GET", "/", "")
			if x.StatusCode != 200 {
				t.Fatalf("%d %s", x.StatusCode, x.Body)
			}
			if rec := n.Record(x); rec.Target != x.Body || rec.Revision != 1 {
				t.Errorf("the record says %q of revision %d, the answer is from %q", rec.Target, rec.Revision, x.Body)
			}
			return x.Body
		}
		until := func(want string) {
			t.Helper()
			for end := time.Now().Add(20 * time.Second); call() != want; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("calls still go elsewhere than %s", want)
				}
			}
		}
		until(a.Listener.Addr().String())
		zone.Store(name+".", []string{"127.0.0.2"})
		until(b.Listener.Addr().String())
		a.Close() // nobody is left there
		// The last addresses stay in use while the name does not resolve.
		zone.Delete(name + ".")
		for end := time.Now().Add(20 * time.Second); !strings.Contains(n.Log.String(), "no such host"); time.Sleep(20 * time.Millisecond) {
			call()
			if time.Now().After(end) {
				t.Fatal("the log says nothing of a name that does not resolve")
			}
		}
		if got := call(); got != b.Listener.Addr().String() {
			t.Errorf("answered by %s", got)
		}
		// Two addresses share the calls.
		c := listensAt(t, "127.0.0.3", portOf(a))
		zone.Store(name+".", []string{"127.0.0.2", "127.0.0.3"})
		until(c.Listener.Addr().String())
		until(b.Listener.Addr().String())
	})
}

// A name with addresses of both families, such as localhost, is one service. Where it listens at one of them
// only, no call fails, also without retries, and the address that works becomes the target.
func TestOneFamilyListens(t *testing.T) {
	for _, c := range []struct{ name, listens string }{{"four", "127.0.0.1"}, {"six", "::1"}} {
		t.Run(c.name, func(t *testing.T) {
			up := listensAt(t, c.listens, 0)
			name := "only-" + c.name + ".test"
			zone.Store(name+".", []string{"127.0.0.1", "::1"})
			n := whytest.Start(t, "wire", named(name, portOf(up), "retries: {attempts: 0}, "))
			want := up.Listener.Addr().String()
			for i := range 40 {
				if a := n.Call("POST", "/", "x"); a.StatusCode != 200 || a.Body != want {
					t.Fatalf("call %d: %d %s", i, a.StatusCode, a.Body)
				}
			}
			for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				var at []string
				for _, u := range n.Snapshot().Upstreams {
					for _, x := range u.Targets() {
						at = append(at, x.Address)
						if x.Failed.Load() > 0 {
							t.Errorf("%s counts %d failures", x.Address, x.Failed.Load())
						}
					}
				}
				if slices.Equal(at, []string{want}) {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("targets %v, want %s", at, want)
				}
			}
			up.Close()
			if a := n.Call("GET", "/", ""); a.StatusCode != 502 || !strings.Contains(a.Body, "upstream.unreachable") {
				t.Errorf("nobody listens: %d %s", a.StatusCode, a.Body)
			}
		})
	}
}
