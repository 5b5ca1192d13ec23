package gateway

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

const wellKnown = "/.well-known/whygate/"

// WellKnown lists what every listener serves by itself, and what for.
func WellKnown() [][2]string {
	return [][2]string{
		{"GET " + wellKnown + "whoami", "the caller's address, and how it was found"},
		{"GET " + wellKnown + "reasons/{code}", "what a reason means"},
		{"GET " + wellKnown + "calls/{id}", "what became of a call: to who knows the id what strangers are told, but for the address that the call came from, to the application that made it, by its credential, what callers are; at most " +
			strconv.Itoa(lookupsPerSecond) + " a second for each node; off where disclosure is anonymous for all tiers"},
	}
}

// wellKnown answers what the gateway itself serves on every listener: who the caller is to it, what its
// reasons mean, and what became of a call. Nothing there needs a key; a call is told in more words to who
// shows the key that it was made with.
func (c *call) wellKnown() bool {
	p := c.x.Path
	if len(p) <= len(wellKnown) || p[:len(wellKnown)] != wellKnown || c.x.Method != "GET" && c.x.Method != "HEAD" {
		return false
	}
	rest := p[len(wellKnown):]
	var body []byte
	html := c.wantsHTML()
	switch code, isReason := strings.CutPrefix(rest, "reasons/"); {
	case rest == "whoami":
		if who := c.whoami(); html {
			body = page("whoami", who)
		} else {
			body = indented(who)
		}
	case isReason && reason.ByCode(code) != nil:
		if about := About(reason.ByCode(code)); html {
			body = page("reason", about)
		} else {
			body = indented(about)
		}
	default:
		id, isCall := cutCall(rest)
		if !isCall {
			return false
		}
		told, v := c.lookup(id)
		if v.Refused() {
			if v.Reason == lookupBusy {
				c.x.Extra.Put(wire.RetryAfter, "1")
			}
			c.count(c.g.unknown)
			c.refuse(v)
			return true
		}
		body, html = indented(told), false
	}
	c.count(c.g.unknown)
	h := &c.head
	*h = wire.Head{Status: 200, Fields: h.Fields[:0], Length: int64(len(body))}
	if html {
		h.Fields.Put(wire.ContentType, "text/html; charset=utf-8")
		h.Fields.Add("Content-Security-Policy", pagePolicy)
	} else {
		h.Fields.Put(wire.ContentType, "application/json")
	}
	h.Fields.Add("X-Content-Type-Options", "nosniff")
	h.Fields.Add("Cache-Control", "no-store")
	c.finishHead(h, false)
	c.rec.Status, c.rec.Outcome = 200, calllog.Answered
	if !c.contentless(h) {
		c.rec.BytesOut = int64(len(body))
	}
	c.send(body)
	return true
}

// identity is how the gateway sees a caller: the address, and how it was found.
type identity struct {
	Address string       `json:"address"`
	Hops    []reason.Hop `json:"hops"`
	Scheme  string       `json:"scheme"`
	Proto   string       `json:"protocol"`
	Host    string       `json:"host"`
	TLS     string       `json:"tls,omitempty"`
	Call    string       `json:"call"`
}

func (c *call) whoami() identity {
	x := &c.x
	return identity{x.Client.Addr.String(), x.Hops(c.snap.Trust), x.Scheme, protoName(x.Proto), x.Authority, tlsName(c.w), c.id.String()}
}

func protoName(p uint8) string {
	return map[uint8]string{10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}[p]
}

func tlsName(w *wire.Call) string {
	if w.TLS == nil {
		return ""
	}
	switch w.TLS.Version {
	case 0x0304:
		return "1.3"
	case 0x0303:
		return "1.2"
	}
	return "other"
}

func indented(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		panic("BUG: an answer cannot be written: " + err.Error())
	}
	return b.Bytes()
}

// Page is a reason as its page tells it, to whoever asks.
type Page struct {
	Code   string       `json:"reason"`
	Status int          `json:"status"`
	Title  string       `json:"title"`
	Says   string       `json:"says"`
	Fixes  []reason.Fix `json:"fixes"`
	Hint   string       `json:"hint"`
}

// About is the page of a reason. Facts stand in it as words in angle brackets.
func About(r *reason.Reason) Page {
	p := Page{Code: r.Code, Status: r.Status, Title: r.Title, Says: reason.Readable(r.Says), Hint: reason.Readable(r.Hint)}
	for _, f := range r.Fixes {
		p.Fixes = append(p.Fixes, reason.Fix{By: f.By, Text: reason.Readable(f.Text)})
	}
	return p
}
