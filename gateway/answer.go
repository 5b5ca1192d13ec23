package gateway

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/consumer"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/snapshot"
	"github.com/whygate/whygate/wire"
)

// refuse ends a call that no check of a route refused.
func (c *call) refuse(v reason.Verdict) { c.refuseAt(-1, v) }

// refuseAt answers a refusal by the check at step, and records it. Every answer of the
// gateway from 400 up is written here or in failed, so that none is without a reason.
func (c *call) refuseAt(step int, v reason.Verdict) {
	if c.rec.Decide == 0 {
		c.rec.Decide = time.Since(c.w.Start)
	}
	c.x.Undo()
	c.rec.Outcome, c.rec.Reason = calllog.Refused, v.Reason.Code
	if step >= 0 {
		s := &c.route.Steps[step]
		v = s.Told(v, false)
		c.rec.Check, c.rec.Step = s.Name, uint8(min(step+1, 255))
		c.detail.From = s.Source
		c.detail.Next = c.next(step)
	}
	status := v.StatusCode()
	if step >= 0 {
		status = statusOf(c.route, v)
	}
	c.write(v, status)
}

// statusOf is the status of a refusal by a check of a route: the reason's, or 403 where old clients expect that.
func statusOf(r *snapshot.Route, v reason.Verdict) int {
	status := v.StatusCode()
	if r.Legacy && status >= 400 && status < 500 {
		return 403
	}
	return status
}

// next asks the checks behind the one that refused what they would say, so that callers do not
// find obstacles one by one. A check that panics now must not take the refusal with it.
func (c *call) next(step int) (trail reason.Trail) {
	refused, steps := &c.route.Steps[step], c.route.Steps[step+1:]
	if len(steps) == 0 || endsPreflight(&c.x, refused) {
		return nil
	}
	extra := slices.Clone(c.x.Extra) // explaining must not change the answer
	c.x.Explaining, c.x.Cheap = true, true
	a := asker{x: &c.x}
	defer func() {
		c.x.Explaining, c.x.Cheap, c.x.Extra, c.x.Answer = false, false, extra, nil
		a.forget()
		if p := recover(); p != nil {
			c.report(p)
		}
	}()
	a.refused(refused)
	for i := range steps {
		trail = append(trail, a.ask(&steps[i]))
		if a.answered || endsPreflight(&c.x, &steps[i]) {
			break
		}
	}
	return trail
}

// asker has the checks of a route judge a call that is only being explained, in their order.
type asker struct {
	x *policy.Exchange
	// blind is set when a check that identifies the caller refused. What checks behind it say
	// would hold for nobody, unless another one has identified the caller.
	blind bool
	// lapsed takes back what TakeLapsed did, once that was asked for.
	lapsed func()
	// as is an application that is taken to call; nil where the call shows by itself who does.
	as        *consumer.Application
	consumers *consumer.Directory
	// answered is set when a check would answer the call: those behind it are not asked then.
	answered bool
}

// forget leaves the caller as it was found.
func (a *asker) forget() {
	if a.lapsed != nil {
		a.lapsed()
	}
}

func (a *asker) ask(s *policy.Step) reason.Entry {
	if a.blind && a.lapsed == nil && s.Phase > policy.Authentication {
		a.lapsed = a.x.TakeLapsed()
	}
	if a.blind && a.x.Application == nil && a.x.Identity == nil && s.Phase > policy.Authentication && !a.tells(s) {
		return entryOf(s, reason.Unknown, reason.Verdict{})
	}
	given := a.x.Content
	if given != nil && !given.Known() {
		if s.Phase == policy.Authentication && s.ReadsBody() {
			a.refused(s)
			return entryOf(s, reason.Unknown, reason.Verdict{})
		}
		a.x.Content = unread{a.x}
	}
	v, assumed := reason.Verdict{}, false
	if a.as != nil && s.Phase == policy.Authentication {
		v, assumed = s.Assume(a.x, a.consumers, a.as)
	}
	if !assumed {
		v = s.Check.Check(a.x)
	}
	a.x.Content = given
	if v.Reason == contentUnread {
		v, a.x.Unknown = reason.Verdict{}, true
	}
	unknown := a.x.Unknown
	a.answered = a.x.Answer != nil && !v.Refused() && s.Answers(a.x)
	a.x.Answer, a.x.Unknown = nil, false
	switch {
	case unknown && !v.Refused():
		a.refused(s) // who calls is not known either
		return entryOf(s, reason.Unknown, v)
	case v.Refused() && s.Watches(a.x):
		a.x.Spare(s)
		return entryOf(s, reason.Shadow, s.Told(v, true))
	case v.Refused():
		a.refused(s)
		return entryOf(s, reason.Denied, s.Told(v, false))
	}
	return entryOf(s, reason.Passed, v)
}

// tells says that a check behind the authentication decides without knowing who calls. Calls of strangers are not
// to cost more than that of somebody who is known, so on the side of a refusal content and counters stay out of it.
func (a *asker) tells(s *policy.Step) bool {
	i, ok := s.Check.(policy.Impersonal)
	return ok && i.Impersonal() && !(a.x.Cheap && (s.Phase == policy.Limits || s.ReadsBody()))
}

// refused notes that a check refused, or was left out.
func (a *asker) refused(s *policy.Step) {
	a.blind = a.blind || s.Phase == policy.Authentication
}

// endsPreflight says that a preflight is answered or refused by this check, and by none behind it.
func endsPreflight(x *policy.Exchange, s *policy.Step) bool {
	return x.Preflight && s.Phase == policy.CORS && s.Answers(x) && !x.Spared(s.Name)
}

// failed ends a call that was let pass and could not be carried out.
func (c *call) failed(v reason.Verdict) {
	c.rec.Outcome, c.rec.Reason = calllog.Failed, v.Reason.Code
	if c.rec.Tries > 1 {
		v.Facts = append(v.Facts, reason.Rule("tries", int(c.rec.Tries)))
	}
	if f, ok := v.Facts.Find("retry_after", reason.ToOperator); ok {
		if d, ok := f.Value.(time.Duration); ok {
			c.x.Extra.Put(wire.RetryAfter, strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10))
		}
	}
	c.write(v, v.StatusCode())
}

// tier is how much of a refusal this caller may read.
func (c *call) tier() reason.Tier {
	d := &c.snap.Gateway.Disclosure
	text := d.Anonymous
	if app := c.x.Application; app != nil {
		text = d.Caller
		if team := c.x.Route.Owner.Team; team != "" && team == app.Owner.Team {
			text = d.Owner
		}
	} else if id := c.x.Identity; id != nil && id.Method != "anonymous" {
		text = d.Caller
	}
	var t reason.Tier
	if t.UnmarshalText([]byte(text)) != nil {
		t = reason.ToAnyone
	}
	return t
}

// write sends a refusal in the form that the client understands.
func (c *call) write(v reason.Verdict, status int) {
	if c.stats != nil {
		c.stats.Refused(v.Reason.Code)
	}
	c.detail.Verdict = &v
	if _, ok := v.Facts.Find("hops", reason.ToOperator); !ok && (c.x.Client.Hop > 0 || c.x.Client.Announced.IsValid()) {
		c.detail.Hops = c.x.Hops(c.snap.Trust)
	}
	told := v.Tell(c.tier())
	h := &c.head
	*h = wire.Head{Status: status, Fields: h.Fields[:0], Close: h.Close}
	var body []byte
	switch {
	case c.isGRPC():
		h.Status = 200
		c.grpcFields(h, max(v.StatusCode(), 400), told)
	case c.wantsHTML():
		h.Fields.Put(wire.ContentType, "text/html; charset=utf-8")
		h.Fields.Add("Content-Security-Policy", pagePolicy)
		body = c.refusalPage(told, status)
	default:
		h.Fields.Put(wire.ContentType, "application/problem+json")
		body = c.problem(told, status)
	}
	h.Fields.Add("Cache-Control", "no-store")
	h.Fields.Add("X-Content-Type-Options", "nosniff")
	h.Fields.Add("Whygate-Reason", v.Reason.Code)
	h.Fields.Add("Whygate-Refused-By", "gateway")
	c.finishHead(h, true)
	h.Length = int64(len(body))
	c.rec.Status = uint16(status)
	if c.x.Method != "HEAD" {
		c.rec.BytesOut = int64(len(body))
	}
	c.send(body)
}

// answerItself gives an answer of the gateway that is no refusal: to a preflight, or one that is kept
// or made up instead of the upstream's, and is changed on its way like that.
func (c *call) answerItself() {
	a := c.x.Answer
	if a.Delay > 0 && !c.Wait(nil, a.Delay) {
		c.clientGone()
		return
	}
	h := &c.head
	*h = wire.Head{Status: a.Status, Fields: append(h.Fields[:0], a.Fields...), Length: int64(len(a.Body)), Close: h.Close}
	if a.Status == 304 { // whatever its length would be (RFC 9110 §8.6)
		h.Length = -1
	}
	if c.route.Deprecated {
		h.Fields.Add("Deprecation", "true")
	}
	c.finishHead(h, false)
	c.rec.Outcome = calllog.Answered
	if h.Status >= 400 && a.By != "" {
		h.Fields.Add("Whygate-Refused-By", a.By)
	}
	body, err := a.Body, c.filter(h)
	if err == nil && len(c.filters) > 0 {
		if body, err = c.transform(body, true, false); err == nil { // all of it at once
			h.Length = int64(len(body))
		}
	}
	if err != nil {
		h.Close = false
		c.failed(c.notTransformed(err))
		return
	}
	if a.Ranges {
		body = c.cut(h, body)
	}
	c.rec.Status = uint16(h.Status)
	if !c.contentless(h) {
		c.rec.BytesOut = int64(len(body))
	}
	c.send(body)
}

// cut makes an answer that is at hand as a whole into the part that the call wants of it (RFC 9110 §14). A coding that
// was put on just now may come out otherwise the next time: nothing is cut out of that.
func (c *call) cut(h *wire.Head, body []byte) []byte {
	v, wanted := c.x.Fields.Lookup("Range")
	if !wanted || c.x.Method != "GET" || h.Status != 200 {
		return body
	}
	coding, _ := h.Fields.Lookup("Content-Encoding")
	if kept, _ := c.x.Answer.Fields.Lookup("Content-Encoding"); coding != kept {
		return body
	}
	if cond, ok := c.x.Fields.Lookup("If-Range"); ok { // §13.1.5: only if nothing has changed, by a strong comparison
		etag, _ := h.Fields.Lookup("ETag")
		modified, _ := h.Fields.Lookup("Last-Modified")
		if cond == "" || cond != modified && (cond != etag || cond[0] != '"') {
			return body
		}
	}
	start, end, ok := policy.ByteRange(v, int64(len(body)))
	if !ok {
		return body
	}
	h.Status = 206
	h.Fields.Add("Content-Range", "bytes "+strconv.FormatInt(start, 10)+"-"+strconv.FormatInt(end-1, 10)+"/"+strconv.Itoa(len(body)))
	h.Length = end - start
	return body[start:end]
}

// finishHead adds what every answer of the gateway carries.
func (c *call) finishHead(h *wire.Head, refusal bool) {
	h.Fields = append(h.Fields, c.x.Extra...)
	if c.route != nil {
		for _, e := range c.route.ResponseEdits {
			if refusal {
				c.editRefusal(e, h)
			} else {
				e.EditResponse(&c.x, h)
			}
		}
	}
	h.Fields.Add("Whygate-Call", c.idString())
	if _, dated := h.Fields.Find(wire.Date); !dated { // what a cache has kept is
		h.Fields.Put(wire.Date, httpDate(c.w.Start))
	}
}

// editRefusal goes on without an edit that panics: the others still do their part, such as
// letting pages of the web read why they were refused.
func (c *call) editRefusal(e policy.ResponseEditor, h *wire.Head) {
	defer func() {
		if p := recover(); p != nil && c.rec.Flags&calllog.Panicked == 0 { // else it was reported, or another one was
			c.report(p)
		}
	}()
	e.EditResponse(&c.x, h)
}

// send records the call and writes an answer that is at hand as a whole.
func (c *call) send(body []byte) {
	c.record()
	c.w.Respond(&c.head)
	c.w.Write(body)
	if c.w.End(nil) != nil {
		c.amend(calllog.ClientGone)
	}
}

func (c *call) idString() string {
	b, _ := c.id.AppendText(c.idText[:0])
	return wire.View(b)
}

// problem is the body of RFC 9457.
func (c *call) problem(told reason.Told, status int) []byte {
	p := struct {
		Type string `json:"type"`
		reason.Told
		Instance string `json:"instance"`
		Call     string `json:"call"`
	}{Type: wellKnown + "reasons/" + told.Code, Told: told, Instance: c.x.Path, Call: c.id.String()}
	p.Told.Status = status
	return indented(&p)
}

// wantsHTML says that a person looks at the answer in a browser.
func (c *call) wantsHTML() bool {
	accept := c.x.Fields.Get(wire.Accept)
	html := strings.Index(accept, "text/html")
	if html < 0 {
		return false
	}
	j := strings.Index(accept, "json")
	return j < 0 || html < j
}

func (c *call) isGRPC() bool {
	return c.x.Proto == 20 && isGRPCType(c.x.Fields.Get(wire.ContentType))
}

func isGRPCType(t string) bool {
	return strings.HasPrefix(t, "application/grpc") && (len(t) == 16 || t[16] == '+' || t[16] == ';')
}

// grpcFields puts a refusal into a trailers-only answer. The mapping from HTTP follows
// gRPC's own document, with the codes that a server would use where it knows better.
func (c *call) grpcFields(h *wire.Head, status int, told reason.Told) {
	h.Fields.Put(wire.ContentType, "application/grpc")
	h.Fields.Put(wire.GRPCStatus, strconv.Itoa(grpcCode(status)))
	text := told.Says
	if len(told.Fixes) > 0 {
		text += "; " + told.Fixes[0].Text
	}
	h.Fields.Add("Grpc-Message", grpcEscape(text))
}

func grpcCode(status int) int {
	switch status {
	case 400, 411, 414, 417, 431:
		return 3 // INVALID_ARGUMENT
	case 401:
		return 16 // UNAUTHENTICATED
	case 403:
		return 7 // PERMISSION_DENIED
	case 404, 405, 410, 501, 505:
		return 12 // UNIMPLEMENTED
	case 408, 504, reason.StatusClientGone: // who is answered all the same has set a deadline
		return 4 // DEADLINE_EXCEEDED
	case 413, 429:
		return 8 // RESOURCE_EXHAUSTED
	case 502, 503:
		return 14 // UNAVAILABLE
	case 500:
		return 13 // INTERNAL
	}
	return 2 // UNKNOWN
}

// grpcEscape is the percent-encoding of grpc-message.
func grpcEscape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			b.WriteString("%" + strings.ToUpper(strconv.FormatUint(uint64(c)|0x100, 16)[1:]))
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
