package gateway

import (
	"slices"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// record writes the call's record. It comes before the last byte of the answer, so that no
// call is answered and then forgotten, whatever happens to the process; and so that a client who
// has its answer finds the place free that the call took.
func (c *call) record() {
	if c.recorded {
		return
	}
	c.recorded = true
	c.x.Finish()
	r, x := &c.rec, &c.x
	r.Duration = time.Since(c.w.Start)
	r.Proto = x.Proto
	if c.w.TLS != nil {
		r.Flags |= calllog.TLS
	}
	if c.g.Journal == nil {
		c.g.Unrecorded.Add(1)
		return
	}
	r.Method, r.Host, r.Path = x.Method, x.Host, wire.Shown(x.Target)
	r.Listener = c.w.Listener.Name
	r.Client, r.Peer = x.Client.Addr, x.Client.Peer
	r.UserAgent = x.Fields.Get(wire.UserAgent)
	r.Trace = traceID(x.Fields.Get(wire.Traceparent))
	r.Revision = c.snap.Revision
	if c.pieceIn > 0 {
		r.BytesIn = c.pieceIn
	}
	if rt := c.route; rt != nil {
		r.API, r.Version, r.Stage, r.Route = rt.API, rt.Version, rt.Stage, rt.Name
		r.Steps = uint8(min(len(rt.Steps), 255))
	}
	if x.Application != nil {
		r.Application = x.Application.Name
	}
	if x.Credential != nil {
		r.Credential = x.Credential.Prefix
	} else if v := c.detail.Verdict; v != nil {
		// A key that was refused: the same fingerprint finds all its calls.
		if f, ok := v.Facts.Find("key", reason.ToOperator); ok && r.Outcome == calllog.Refused {
			r.Credential, _ = f.Value.(string)
		}
	}
	if x.Subscription != nil {
		r.Subscription = x.Subscription.Name
	}
	if x.Plan != nil {
		r.Plan = x.Plan.Name
	}
	if x.Limited {
		r.Remaining = int32(min(x.Tightest.Left, 1<<31-1))
	}
	for _, n := range x.Notes {
		c.hint(n.Code, n.Text)
	}
	if !c.detail.empty() {
		c.detail.Identity = identityOf(x)
	}
	if c.route != nil && len(c.route.Masks) > 0 {
		c.mask(&c.route.Route)
	}
	r.Detail = c.detail.encode()
	c.ref = c.g.Journal.Append(r)
}

// mask hides in the record what a policy of the route hides.
func (c *call) mask(route *policy.Route) {
	r, d := &c.rec, &c.detail
	r.Path, r.UserAgent = route.MaskText(r.Path), route.MaskText(r.UserAgent)
	if d.Verdict != nil {
		v := *d.Verdict
		v.Facts = maskFacts(route, v.Facts)
		d.Verdict = &v
	}
	for _, trail := range []reason.Trail{d.Next, d.Shadows} {
		for i := range trail {
			trail[i].Facts = maskFacts(route, trail[i].Facts)
		}
	}
	for i := range d.Hints {
		d.Hints[i].Text = route.MaskText(d.Hints[i].Text)
	}
	if d.Identity != nil {
		d.Identity.Subject = route.MaskText(d.Identity.Subject)
	}
	if d.Refuser != nil {
		for i := range d.Refuser.Evidence {
			clue := &d.Refuser.Evidence[i]
			clue.Says, clue.Quote = route.MaskText(clue.Says), route.MaskText(clue.Quote)
		}
	}
}

// maskFacts are facts as they are recorded. What a public manual would tell is not the caller's, and stays.
func maskFacts(route *policy.Route, facts reason.Facts) reason.Facts {
	masked := slices.Clone(facts)
	for i := range masked {
		if masked[i].Tier == reason.ToAnyone {
			continue
		}
		switch v := masked[i].Value.(type) {
		case string:
			masked[i].Value = route.MaskText(v)
		case []string:
			list := slices.Clone(v)
			for k := range list {
				list[k] = route.MaskText(list[k])
			}
			masked[i].Value = list
		}
	}
	return masked
}

// amend corrects a record whose answer did not reach the client.
func (c *call) amend(f calllog.Flags) {
	c.rec.Flags |= f
	if c.g.Journal != nil && c.recorded {
		c.g.Journal.Amend(c.ref, f, c.rec.BytesOut, time.Since(c.w.Start))
	}
}

// traceID is the second part of a W3C traceparent, if that has the right form.
func traceID(v string) string {
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return ""
	}
	id := v[3:35]
	for i := 0; i < len(id); i++ {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	return id
}
