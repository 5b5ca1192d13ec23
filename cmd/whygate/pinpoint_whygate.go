package main

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/pinpoint"
	"github.com/whygate/whygate/pinpoint/diagnose"
	"github.com/whygate/whygate/pinpoint/replay"
	"github.com/whygate/whygate/reason"
)

// record is what a Whygate that refused has told of the call.
type record struct {
	id            string
	told          *reason.Told
	sent, strikes int
}

// whygateRecord is a diagnose.Options.Ask that asks a Whygate for its record of the call that it refused: the node on this
// machine, which tells the operator everything, or else the server itself, which tells this caller what they may know.
func (a *app) whygateRecord(o *diagnose.Options, r *record) func(context.Context, *pinpoint.Case, *pinpoint.Answer) []pinpoint.Clue {
	return func(ctx context.Context, c *pinpoint.Case, answer *pinpoint.Answer) []pinpoint.Clue {
		code := answer.Header.Value("Whygate-Reason")
		id, err := calllog.ParseID(answer.Header.Value("Whygate-Call"))
		if code == "" || err != nil {
			return nil
		}
		r.id = id.String()
		var asked *pinpoint.Request
		if x := c.Exchange(); x != nil {
			asked = x.Request
		}
		if r.told = a.recordHere(ctx, asked, answer, r.id, code); r.told == nil && !o.Offline && !o.Plan {
			r.told = recordThere(ctx, c, answer, o, r, code)
		}
		if r.told == nil {
			return nil
		}
		return []pinpoint.Clue{recordClue(r)}
	}
}

// recordHere is the record of the node on this machine. An answer may carry the id of a call that was another one: it was
// kept by a cache, or written into another page.
func (a *app) recordHere(ctx context.Context, asked *pinpoint.Request, answer *pinpoint.Answer, id, code string) *reason.Told {
	call, err := a.findCall(ctx, id)
	if err != nil || call.Told == nil || call.Told.Code != code || call.Status != answer.Status || !sameCall(asked, call.Method, call.Path) {
		return nil
	}
	return call.Told
}

// sameCall says that a record may be that of a request. Methods agree, unless a hop between rewrote one, which is rare; of
// paths, which hops do rewrite, the last segment has to agree, where both have one that is not a secret.
func sameCall(asked *pinpoint.Request, method, path string) bool {
	if asked == nil {
		return true
	}
	if method != "" && asked.Method != "" && method != asked.Method {
		return false
	}
	u, err := asked.Parsed()
	if err != nil || path == "" || len(path) >= 1000 { // records cut long paths
		return true
	}
	last := func(p string) string {
		p = strings.TrimRight(p, "/")
		return p[strings.LastIndexByte(p, '/')+1:]
	}
	if escaped, err := url.Parse(path); err == nil {
		path = escaped.Path
	}
	was, is := last(path), last(u.Path)
	return was == "" || is == "" || was == is || strings.Contains(was+is, "‹") || strings.Contains(was+is, "…") || strings.Contains(was+is, "***")
}

// framing are fields that describe a body, or what is done with an answer. The request for the record has no body.
var framing = []string{"Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Expect", "Accept", "Accept-Encoding", "Range", "If-Match",
	"If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Connection", "Upgrade", "Access-Control-Request-Method", "Access-Control-Request-Headers"}

// recordThere asks the server by GET, with the credentials of the request that it refused.
func recordThere(ctx context.Context, c *pinpoint.Case, refused *pinpoint.Answer, o *diagnose.Options, r *record, code string) *reason.Told {
	x := c.Exchange()
	if x == nil || x.Request == nil || slices.ContainsFunc(c.Gaps, func(g pinpoint.Gap) bool { return g.Kind == "variable" && g.Blocks }) {
		return nil // where to ask is not known, or with what
	}
	q := x.Request.Clone()
	host := strings.Index(q.URL, "://")
	if host < 0 {
		return nil
	}
	end, query := len(q.URL), ""
	if i := strings.IndexAny(q.URL[host+3:], "/?#"); i >= 0 {
		end = host + 3 + i
	}
	if _, after, ok := strings.Cut(q.URL[end:], "?"); ok {
		query = "?" + after
	}
	q.Method, q.Body, q.URL = "GET", nil, q.URL[:end]+"/.well-known/whygate/calls/"+r.id+query
	q.Header = append(q.Header.Without(framing...), pinpoint.Field{Name: "Accept", Value: "application/json"})
	send := o.Replay.Sender
	if send == nil {
		s, err := replay.NewSender(c, o.Replay.Send)
		if err != nil {
			return nil
		}
		send = s
	}
	answer, err := send.Send(ctx, q)
	if err != nil {
		return nil
	}
	r.sent++
	if answer.Refused() {
		r.strikes++
	}
	var l gateway.Lookup
	if answer.Status != 200 || json.Unmarshal(answer.Body, &l) != nil || l.Call != r.id || l.Status != refused.Status || l.Told == nil || l.Told.Code != code || !sameCall(x.Request, l.Method, l.Path) {
		return nil
	}
	return l.Told
}

// safe is a text of the server, fit to be shown.
func safe(s string) string { return pinpoint.SafeText(s, 300) }

// recordClue is a record as evidence: it is the server's own log.
func recordClue(r *record) pinpoint.Clue {
	told := r.told
	c := pinpoint.Clue{Source: pinpoint.FromLog, ID: pinpoint.Recorded, Refuser: "whygate", Cause: pinpoint.ReasonCause(told.Code), Weight: pinpoint.Certain,
		Says: "Whygate recorded the call " + r.id + " with the reason " + safe(told.Code) + ": " + strings.TrimSuffix(safe(told.Title), ".") + "."}
	switch {
	case told.Wanted != "" && told.Seen != "":
		c.Quote = "wanted " + safe(told.Wanted) + "; seen " + safe(told.Seen)
	case told.Says != told.Title:
		c.Quote = safe(told.Says)
	}
	if told.At != nil {
		c.At = pinpoint.Place{File: safe(told.At.File), Line: told.At.Line}
	}
	return c
}

// explain puts what Whygate recorded into a verdict: its own words, and its fixes.
func (r *record) explain(v *pinpoint.Verdict) {
	v.Sent, v.Strikes = v.Sent+r.sent, v.Strikes+r.strikes
	told := r.told
	if told == nil && r.id != "" && v.Refuser.Product == "whygate" {
		v.Next = "The server is Whygate: whygate why " + r.id + " on it tells the whole story."
	}
	if told == nil || v.Outcome == pinpoint.NotReproduced { // it passes now; the record is evidence of what was
		return
	}
	v.Outcome, v.Grade, v.Confidence = pinpoint.Proved, "A", 0.99
	v.Sentence = "Whygate refused it: " + strings.TrimSuffix(safe(told.Says), ".") + "."
	v.Refuser.Product = "whygate"
	v.Cause, v.Title, v.Layer = pinpoint.ReasonCause(told.Code), safe(told.Title), "gateway"
	risk := ""
	if k, ok := pinpoint.CauseByID(v.Cause); ok {
		v.Title, v.Layer, risk = k.Title, k.Layer, v.Fix.Risk
	}
	v.Alternatives, v.Next = nil, ""
	if len(told.Fixes) == 0 {
		return
	}
	v.Fix = pinpoint.Fix{Owner: fixOwners[told.Fixes[0].By], Risk: risk}
	for i, f := range told.Fixes {
		step := safe(f.Text)
		if i > 0 && f.By != told.Fixes[0].By {
			step += " (" + whoCan(f) + ")"
		}
		v.Fix.Steps = append(v.Fix.Steps, step)
	}
}

// fixOwners are the parties of reasons, as verdicts name them.
var fixOwners = map[reason.Party]string{reason.Caller: "caller", reason.Application: "app-dev", reason.Owner: "api-owner", reason.Operator: "server-admin"}
