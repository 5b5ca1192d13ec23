package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/whytest"
)

// binary is this test under the name whygate: TestMain makes it the command.
func binary(t *testing.T) string {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "whygate")
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	return link
}

// TestKill: kill -9 under load loses no record of an answered call, be it allowed, refused or streamed. The
// record is written before the last byte of the answer leaves.
func TestKill(t *testing.T) {
	whygate := binary(t)
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			for i := range 3 {
				fmt.Fprintf(w, "piece %d\n", i)
				http.NewResponseController(w).Flush()
			}
			return
		}
		io.WriteString(w, "ok")
	})
	for round := range 3 {
		dir := t.TempDir()
		docs := filepath.Join(dir, "docs.yaml")
		if err := os.WriteFile(docs, []byte(whytest.API(up.URL, "/", "    - method: {deny: [DELETE]}")), 0o600); err != nil {
			t.Fatal(err)
		}
		data := filepath.Join(dir, "data")
		cmd := exec.Command(whygate, "serve", docs, "--listen", "127.0.0.1:0", "--admin", "", "--data", data, "--log-level", "error")
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		base := ""
		for range 500 {
			if n, err := readNode(data); err == nil && len(n.Listeners) > 0 {
				base = "http://" + n.Listeners[0]
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if base == "" {
			t.Fatal("the node does not start")
		}
		var mu sync.Mutex
		var answered []string
		var all sync.WaitGroup
		for worker := range 8 {
			all.Go(func() {
				client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
				for i := 0; ; i++ {
					method, path := "GET", []string{"/plain", "/stream", "/none/such"}[i%3]
					if worker == 0 {
						method = "DELETE"
					}
					req, _ := http.NewRequest(method, base+path, nil)
					res, err := client.Do(req)
					if err != nil {
						return
					}
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if err != nil {
						return
					}
					mu.Lock()
					answered = append(answered, res.Header.Get("Whygate-Call"))
					mu.Unlock()
				}
			})
		}
		time.Sleep(200*time.Millisecond + rand.N(400*time.Millisecond))
		cmd.Process.Kill()
		cmd.Wait()
		all.Wait()
		reader, err := calllog.OpenReader(filepath.Join(data, journalName))
		if err != nil {
			t.Fatal(err)
		}
		if len(answered) < 50 {
			t.Errorf("round %d: only %d calls were answered", round, len(answered))
		}
		for _, text := range answered {
			id, err := calllog.ParseID(text)
			if err != nil {
				t.Fatalf("an answer without a call id: %q", text)
			}
			rec, ok, err := reader.Find(id)
			if err != nil || !ok || rec.Status == 0 || !strings.HasPrefix(rec.Path, "/") {
				t.Fatalf("round %d: call %s was answered and has no record (%v, %+v)", round, id, err, rec)
			}
		}
		t.Logf("round %d: %d answered calls, all recorded", round, len(answered))
	}
}

// TestLogReaderGone: a node whose log nobody reads any more goes on.
func TestLogReaderGone(t *testing.T) {
	dir := t.TempDir()
	docs, data := filepath.Join(dir, "docs.yaml"), filepath.Join(dir, "data")
	write := func(base string) {
		if err := os.WriteFile(docs, []byte(whytest.API("http://127.0.0.1:9", base, "")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("/1")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t), "serve", docs, "--listen", "127.0.0.1:0", "--admin", "", "--data", data)
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	w.Close()
	whytest.Eventually(t, "the node serves", func() bool { n, err := readNode(data); return err == nil && len(n.Listeners) > 0 })
	r.Close()
	for revision := 2; revision <= 3; revision++ { // the log tells each, so that the third proves that it could tell the second
		write(fmt.Sprint("/", revision))
		whytest.Eventually(t, "the change is in use", func() bool {
			b, _ := os.ReadFile(filepath.Join(data, "revision.json"))
			return strings.Contains(string(b), fmt.Sprintf(`"revision":%d`, revision))
		})
	}
	cmd.Process.Signal(os.Interrupt)
	if err := <-ended; err != nil {
		t.Errorf("the drain ended with %v", err)
	}
}

// TestHangupWhileDraining: whoever asks for a reload at the wrong moment breaks no call.
func TestHangupWhileDraining(t *testing.T) {
	asked, let := make(chan bool), make(chan bool)
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- true
		<-let
		io.WriteString(w, "ok")
	})
	dir := t.TempDir()
	docs, data := filepath.Join(dir, "docs.yaml"), filepath.Join(dir, "data")
	if err := os.WriteFile(docs, []byte(whytest.API(up.URL, "/", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t), "serve", docs, "--listen", "127.0.0.1:0", "--admin", "", "--data", data, "--log-level", "error")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var address string
	whytest.Eventually(t, "the node serves", func() bool {
		n, err := readNode(data)
		if err == nil && len(n.Listeners) > 0 {
			address = n.Listeners[0]
		}
		return address != ""
	})
	answer := make(chan string, 1)
	go func() {
		res, err := http.Get("http://" + address + "/")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		answer <- fmt.Sprint(string(b), " ", err)
	}()
	<-asked
	cmd.Process.Signal(os.Interrupt)
	whytest.Eventually(t, "the node drains", func() bool {
		nc, err := net.Dial("tcp", address)
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
	cmd.Process.Signal(syscall.SIGHUP)
	whytest.Eventually(t, "the signal has been delivered", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)) // nothing pending
		return err != nil || strings.Contains(string(b), "ShdPnd:\t0000000000000000")
	})
	close(let)
	if got := <-answer; got != "ok <nil>" {
		t.Errorf("the call ended with %s", got)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the drain ended with %v", err)
	}
}
