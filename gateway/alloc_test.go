package gateway_test

import (
	"bytes"
	"net"
	"runtime"
	"testing"

	"github.com/whygate/whygate/whytest"
)

// TestAllocationsOfACall counts what a whole call allocates in the whole process: key, subscription, rate limit,
// forwarding over a kept connection, record and metrics. Client and upstream here allocate nothing.
func TestAllocationsOfACall(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget at random under the race detector")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	end, answer := []byte("\r\n\r\n"), []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"id\": 1234}")
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				buf, n := make([]byte, 4096), 0
				for {
					m, err := nc.Read(buf[n:])
					if err != nil {
						return
					}
					if n += m; bytes.HasSuffix(buf[:n], end) {
						if _, err := nc.Write(answer); err != nil {
							return
						}
						n = 0
					}
				}
			}()
		}
	}()
	key, people := whytest.Consumer("acme", "")
	n := whytest.Start(t, "wire", whytest.API("http://"+l.Addr().String(), "/", "    - key-auth\n    - subscription\n    - rate-limit: {requests: 1000000000, period: 1s}")+people+
		"---\napiVersion: whygate/v1\nkind: Plan\nmetadata: {name: plan}\nspec: {approval: automatic}\n"+
		"---\napiVersion: whygate/v1\nkind: Subscription\nmetadata: {name: acme}\nspec: {application: acme, api: api, plan: plan}\n")
	nc, err := net.Dial("tcp", n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	request := []byte("GET /orders/17?x=1 HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: test\r\nAccept: */*\r\nX-Api-Key: " + key + "\r\n\r\n")
	buf, body := make([]byte, 4096), []byte("{\"id\": 1234}")
	call := func() {
		if _, err := nc.Write(request); err != nil {
			t.Fatal(err)
		}
		for n := 0; !bytes.HasSuffix(buf[:n], body); {
			m, err := nc.Read(buf[n:])
			if err != nil || n+m == len(buf) {
				t.Fatalf("%v %q", err, buf[:n+m])
			}
			n += m
		}
	}
	for range 500 {
		call()
	}
	if !bytes.HasPrefix(buf, []byte("HTTP/1.1 200 ")) {
		t.Fatalf("%.300q", buf)
	}
	const calls = 5000
	least := 1e9
	for range 3 { // something else may run once
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for range calls {
			call()
		}
		runtime.ReadMemStats(&after)
		least = min(least, float64(after.Mallocs-before.Mallocs)/calls)
	}
	t.Logf("%.3f allocations per call", least)
	if least > 2 {
		t.Errorf("%.3f allocations per call, at most 2 are allowed", least)
	}
}
