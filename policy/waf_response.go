package policy

import (
	"strings"

	"github.com/corazawaf/coraza/v3/types"

	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

// wafBoth looks at requests and answers.
type wafBoth struct{ *wafCheck }

var _ ContentFilter = (*wafBoth)(nil)

// EditRequest asks for answers in a coding that can be looked into.
func (c *wafBoth) EditRequest(x *Exchange, o *wire.Outgoing) {
	o.Fields.Remove("Accept-Encoding")
}

// Filter holds an answer that the rules can look into.
func (c *wafBoth) Filter(x *Exchange, h *wire.Head) (Transform, error) {
	if c.engine.err != nil || x.Upgrade != "" {
		return nil, nil
	}
	tx := c.begin(x)
	w := &wafAnswer{c: c, x: x, tx: tx}
	for _, f := range h.Fields {
		if wire.EqualFold(f.Name, "Content-Encoding") && unpacks(f.Value) {
			w.coding = strings.Clone(f.Value) // the rules leave packed answers alone, and see this one unpacked
			continue
		}
		tx.AddResponseHeader(strings.Clone(f.Name), strings.Clone(f.Value))
	}
	tx.ProcessResponseHeaders(h.Status, protocol(x.Proto))
	if tx.Interruption() == nil && !tx.IsResponseBodyProcessable() {
		w.bodiless = true
	}
	return w, nil
}

// unpacks says that unpackCoding knows a coding.
func unpacks(coding string) bool {
	_, fault := unpackCoding(nil, coding, 0)
	return !strings.HasSuffix(fault, unknownCoding)
}

// wafAnswer is an answer that is held until it was looked at.
type wafAnswer struct {
	c        *wafBoth
	x        *Exchange
	tx       wafTransaction
	coding   string
	held     []byte
	bodiless bool // what the rules have to say rests on the head
	judged   bool
}

// Write holds what comes until the end or the bound.
func (w *wafAnswer) Write(piece []byte, last bool) ([]byte, error) {
	if w.judged {
		return piece, nil
	}
	if !w.bodiless {
		w.held = append(w.held, piece...)
		if !last && int64(len(w.held)) < w.c.maxResponse {
			return nil, nil
		}
		piece = w.held
	}
	w.judged = true
	v := w.judge(piece)
	finishWAF(w.tx)
	w.tx = nil
	if v.Refused() {
		return nil, Withheld{v}
	}
	return piece, nil
}

func (w *wafAnswer) judge(content []byte) reason.Verdict {
	if !w.bodiless && w.tx.Interruption() == nil {
		look := content[:min(len(content), int(w.c.maxResponse))]
		if plain, _ := unpackCoding(look, w.coding, w.c.maxResponse); len(plain) > 0 { // a part of it is better than none
			look = plain
		}
		w.tx.WriteResponseBody(look) // the bound of the engine is larger
	}
	w.tx.ProcessResponseBody() // an error leaves the verdict to the rules about the head
	if w.tx.Interruption() == nil {
		return reason.Verdict{}
	}
	f := w.c.engine.find(w.tx, types.PhaseResponseHeaders, types.PhaseResponseBody, "")
	return f.withStatus(wafResponse.Refuse(f.facts(w.x, reason.Rule("threshold", w.c.outbound).At(w.c.outboundAt))...))
}

// Withheld is the error of a ContentFilter that refuses the answer. While nothing of that was sent, the
// client is told why instead.
type Withheld struct{ Verdict reason.Verdict }

func (w Withheld) Error() string { return w.Verdict.Reason.Title }
