package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/resource"
)

func TestIPAccessFiles(t *testing.T) {
	s := newShelf(t)
	s.write("offices.txt", "# offices\n203.0.113.0/24   # Berlin\n\n2001:db8::/32 ; the lab\r\n")
	s.write("blocked.txt", "\ufeff203.0.113.0/28\n203.0.113.7\n203.0.113.7 # twice\n")
	c := s.check("ip-access", `{allow: [198.51.100.0/24], allowFiles: [offices.txt], deny: [198.51.100.66], denyFiles: [blocked.txt]}`)
	ask := func(addr string) reason.Verdict { return c.Check(s.from(addr, "GET /")) }
	wants(t, ask("203.0.113.99"), "")
	wants(t, ask("198.51.100.1"), "")
	wants(t, ask("2001:db8:1::1"), "")
	v := ask("203.0.113.7")
	wants(t, v, "ip-access.denied", "203.0.113.7/32", "blocked.txt:2", "2 networks of", "198.51.100.66/32")
	f, _ := v.Facts.Find("network", reason.ToOwner)
	if f.From == nil || f.From.Line != 2 || !strings.HasSuffix(f.From.File, "blocked.txt") || f.From.Field != "denyFiles[0]" {
		t.Errorf("written at %+v", f.From)
	}
	v = ask("198.51.100.66")
	wants(t, v, "ip-access.denied", "198.51.100.66/32")
	if f, _ := v.Facts.Find("network", reason.ToOwner); f.From.Field != "deny[0]" {
		t.Errorf("written at %+v", f.From)
	}
	wants(t, ask("203.0.114.1"), "ip-access.not-allowed", "2 networks of", "198.51.100.0/24", "nearest allowed network 203.0.113.0/24")
	wants(t, ask("2001:db9::1"), "ip-access.not-allowed", "nearest allowed network 2001:db8::/32")
	x := s.from("203.0.113.99", "GET /")
	x.Explaining = true
	if f, ok := c.Check(x).Facts.Find("allowed_by", reason.ToOwner); !ok || f.Text() != "203.0.113.0/24" || f.From.Line != 2 {
		t.Errorf("allowed by %+v", f)
	}

	// The file changes, the policy does not.
	s.write("blocked.txt", "203.0.113.99\n")
	for _, k := range s.kept {
		f := k.(*followed[networkTable])
		f.look()
		f.look()
	}
	wants(t, ask("203.0.113.7"), "")
	wants(t, ask("203.0.113.99"), "ip-access.denied", "blocked.txt:1")

	// A mistake in it keeps the old content, and check says so.
	s.write("blocked.txt", "203.0.113.99\n203.0.113.300\n")
	s.warns("ip-access", `{denyFiles: [blocked.txt]}`, "ip-access.old-file")
	wants(t, ask("203.0.113.99"), "ip-access.denied")

	// At first sight it is an error, with its line.
	s.write("wrong.txt", "10.0.0.0/8\n  10.0.0.1/8 # inside\nhello\n")
	s.errs("ip-access", `{denyFiles: [wrong.txt]}`, "wrong.txt:2:3", "write 10.0.0.0/8 for the network")
	s.errs("ip-access", `{denyFiles: [wrong.txt]}`, "wrong.txt:3:1", "wanted a network")
	s.errs("ip-access", `{denyFiles: [wrong.txt]}`, "test.yaml:1:14", "has 2 problems")
	s.errs("ip-access", `{allowFiles: [missing.txt]}`, "test.yaml:1:15", "no such file")
	s.errs("ip-access", `{allowFiles: ["."]}`, "test.yaml", "no regular file")
	s.errs("ip-access", `{allowFiles: [""]}`, "test.yaml", "needs a name")
	s.errs("ip-access", `{}`, "test.yaml", "decides nothing")

	// An allow list that is empty allows nobody.
	s.write("empty.txt", "# nobody yet\n")
	c = s.check("ip-access", `{allowFiles: [empty.txt]}`)
	wants(t, ask("203.0.113.7"), "ip-access.not-allowed", "0 networks of")

	s.trust = NewTrust([]resource.Prefix{{Prefix: netip.MustParsePrefix("203.0.113.2/32")}})
	s.write("proxied.txt", "203.0.113.0/24\n")
	s.warns("ip-access", `{denyFiles: [proxied.txt]}`, "ip-access.denies-proxy")
	s.warns("ip-access", `{allowFiles: [proxied.txt]}`, "ip-access.allows-proxy")
	s.warns("ip-access", `{allowFiles: [proxied.txt], denyFiles: [proxied.txt]}`, "")
}

// TestIPAccessLargeFile: 100,000 networks and no more, found without allocations, refused without a walk
// through all of them.
func TestIPAccessLargeFile(t *testing.T) {
	s := newShelf(t)
	var b strings.Builder
	for i := range networkFileEntries {
		fmt.Fprintf(&b, "%d.%d.%d.0/24\n", 20+i>>16, i>>8&255, i&255)
	}
	s.write("full.txt", b.String())
	c := s.check("ip-access", `{denyFiles: [full.txt]}`)
	wants(t, c.Check(s.from("21.0.0.9", "GET /")), "ip-access.denied", "full.txt:65537")
	x := s.from("203.0.113.7", "GET /")
	if n := testing.AllocsPerRun(100, func() { c.Check(x) }); n > 0 {
		t.Errorf("a call that passes allocates %v times", n)
	}
	a := s.check("ip-access", `{allowFiles: [full.txt]}`)
	wants(t, a.Check(s.from("19.255.1.1", "GET /")), "ip-access.not-allowed", "100000 networks of", "nearest allowed network 2")
	s.write("over.txt", b.String()+"10.0.0.0/8\n")
	s.errs("ip-access", `{denyFiles: [over.txt]}`, "over.txt:100001:1", "this is network 100,001")
}

func BenchmarkIPAccessFile(b *testing.B) {
	t := &networkTable{}
	for i := range networkFileEntries {
		t.add(netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(20 + i>>16), byte(i >> 8), byte(i)}), 24), i)
	}
	f := &followed[networkTable]{}
	f.now.Store(t)
	c := &ipCheck{deny: []networkSource{{file: f}}, trust: NewTrust(nil)}
	x := &Exchange{Client: Client{Addr: netip.MustParseAddr("20.200.7.7").Next()}}
	x.Client.Addr = netip.MustParseAddr("203.0.113.7")
	b.ReportAllocs()
	for b.Loop() {
		if c.Check(x).Refused() {
			b.Fatal("refused")
		}
	}
}

// FuzzNetworkFile: whatever stands in a file, it is a table or problems with a line in that file.
func FuzzNetworkFile(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8\n", "# c\n\n::/0;x\r\n", "10.0.0.1/8", "\ufeff1.2.3.4\n1.2.3.4", "300.1.1.1\n", "fe80::1%eth0\n", "::ffff:1.2.3.4/120\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		table, err := networkFile("list")(content)
		if err == nil {
			for n, line := range table.table.All() {
				if n != n.Masked() || line < 1 || int(line) > strings.Count(string(content), "\n")+1 {
					t.Fatalf("%v in line %d", n, line)
				}
			}
			return
		}
		for _, p := range err.(resource.Problems) {
			if p.Line < 1 || p.Line > strings.Count(string(content), "\n")+1 || p.Col < 1 {
				t.Fatalf("%v", p)
			}
		}
	})
}

// TestNearest compares with a walk through all networks.
func TestNearest(t *testing.T) {
	table := &networkTable{}
	for i, s := range strings.Fields("10.0.0.0/8 10.1.0.0/16 192.168.0.0/24 203.0.113.0/28 2001:db8::/48 fd00::/8 0.0.0.0/30") {
		table.add(netip.MustParsePrefix(s), i)
	}
	table.done()
	for _, s := range strings.Fields("11.0.0.1 9.9.9.9 203.0.113.200 192.168.1.1 255.255.255.255 0.0.1.1 2001:db8:1::1 2001:db9::1 fe80::1 :: ffff::1 128.0.0.1") {
		a := netip.MustParseAddr(s)
		if table.table.Contains(a) {
			t.Fatalf("%v lies in a network", a)
		}
		most := -1
		for _, n := range table.sorted {
			if n.Addr().BitLen() == a.BitLen() {
				most = max(most, commonBits(a, n.Addr()))
			}
		}
		if n, bits := table.nearest(a); bits != most {
			t.Errorf("nearest to %v is %v with %d bits, want %d", a, n, bits, most)
		}
	}
}
