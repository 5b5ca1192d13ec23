package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/whygate/whygate/admin"
	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/pinpoint"
	"github.com/whygate/whygate/pinpoint/report"
	"github.com/whygate/whygate/reason"
)

func (a *app) whyCommand() *cobra.Command {
	var follow, asJSON bool
	c := &cobra.Command{
		Use:   "why ID|last",
		Short: "Tell the whole story of a call",
		Long: `Tells what became of a call and why: which check refused, what it wanted and saw,
what would help and who can do it, what the checks behind it would have said. The id
is in the header Whygate-Call of every answer. last is the newest call that was
refused or failed. Without a running node the records are read from its data
directory.`,
		Example: "  whygate why last\n  whygate why 01KAM3H5Q8Z9YV7C2T4XW6B0RD\n  whygate why --follow",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case follow && len(args) == 0:
				return a.followCalls(cmd.Context(), url.Values{"refused": {"true"}}, asJSON, a.tellCall)
			case len(args) != 1:
				return usage("why which call? give its id (header Whygate-Call of the answer), or last")
			}
			call, err := a.findCall(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(call)
			}
			a.tellCall(call)
			a.tellSince(cmd.Context(), call)
			return nil
		},
	}
	c.ValidArgsFunction = a.completeCall
	c.Flags().BoolVarP(&follow, "follow", "f", false, "tell refused and failed calls as they come")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	a.nodeFlags(c)
	return c
}

func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// findCall asks the node, or reads its records where none answers.
func (a *app) findCall(ctx context.Context, id string) (*admin.Call, error) {
	cl, err := a.client()
	if err == nil {
		var call admin.Call
		err = cl.do(ctx, "GET", "/v1/calls/"+url.PathEscape(id), nil, nil, &call)
		var refused *nodeError
		if err == nil {
			return &call, nil
		}
		if errors.As(err, &refused) {
			return nil, wrong("%s", refused.text)
		}
	}
	if !errors.Is(err, errNoNode) {
		return nil, environment(err)
	}
	r, openErr := a.records()
	if openErr != nil {
		return nil, environment(err)
	}
	rec, findErr := admin.FindCall(r, id)
	if findErr != nil {
		return nil, wrong("%v", findErr)
	}
	call := admin.CallOf(rec, true)
	return &call, nil
}

// followCalls shows records as they come, from the node or from its journal.
func (a *app) followCalls(ctx context.Context, query url.Values, asJSON bool, show func(*admin.Call)) error {
	each := func(call *admin.Call) {
		if asJSON {
			enc := json.NewEncoder(a.out)
			enc.SetEscapeHTML(false)
			enc.Encode(call)
			return
		}
		show(call)
	}
	cl, err := a.client()
	if err == nil {
		cl.http = &http.Client{} // it lasts as long as somebody looks
		var res *http.Response
		if res, err = cl.send(ctx, "GET", "/v1/calls/follow", query, nil); err == nil {
			defer res.Body.Close()
			a.tellWaiting()
			lines := bufio.NewReaderSize(res.Body, 64<<10)
			for {
				line, err := lines.ReadBytes('\n')
				var call admin.Call
				if len(line) > 1 && json.Unmarshal(line, &call) == nil {
					each(&call)
				}
				if err != nil {
					if ctx.Err() != nil || err == io.EOF {
						return nil
					}
					return environment(err)
				}
			}
		}
		if ctx.Err() != nil {
			return nil
		}
	}
	if !errors.Is(err, errNoNode) {
		return environment(err)
	}
	r, openErr := a.records()
	if openErr != nil {
		return environment(err)
	}
	f, parseErr := admin.ParseFilter(query, time.Now())
	if parseErr != nil {
		return usage("%v", parseErr)
	}
	f.Limit = 0
	a.tellWaiting()
	err = r.Follow(ctx, f, func(rec *calllog.Record) bool {
		call := admin.CallOf(rec, true)
		each(&call)
		return true
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// tellWaiting keeps people from looking at an empty screen.
func (a *app) tellWaiting() {
	if s := a.styleFor(a.err); s.terminal {
		fmt.Fprintln(a.err, s.soft("waiting for calls; Ctrl-C ends"))
	}
}

// tellCall is the answer of `why`.
func (a *app) tellCall(c *admin.Call) {
	s := a.style
	head := fmt.Sprintf("%d %s %s", c.Status, c.Method, c.Path)
	if c.Method == "" {
		head = fmt.Sprintf("%d before a whole request had come", c.Status)
	}
	mark, end := s.bad("✗"), ""
	switch c.Outcome {
	case "allowed":
		mark, end = s.good("✓"), "let pass by the gateway, answered by "+c.Target
		if c.Has("upgraded") {
			end = "upgraded and joined with " + c.Target
		}
		if c.Has("client-gone") {
			mark, end = s.warn("!"), end+"; the client left before the end"
		}
	case "answered":
		mark, end = s.good("✓"), "answered by the gateway itself"
	case "relayed":
		end = "refused by the upstream " + c.Target + "; the gateway let it pass"
	case "failed":
		end = "let pass, but the upstream failed"
		switch c.Reason {
		case "waf.response", "answer.not-transformed":
			end = "let pass, but the answer of the upstream was withheld"
		case "client.gone":
			mark, end = s.warn("!"), "the client left before the answer"
		}
	default:
		end = "refused by the gateway"
		if c.Step > 0 {
			end += fmt.Sprintf(", check %d of %d: %s", c.Step, c.Steps, c.Check)
		}
	}
	a.tellHead(mark, head, end)
	t := &teller{a: a}
	if told := c.Told; told != nil {
		t.line("reason", told.Code, "")
		if told.Wanted == "" && told.Seen == "" {
			t.line("says", told.Says, "")
		}
		t.line("wanted", told.Wanted, told.At.String())
		t.line("seen", told.Seen, "")
		t.methods(told)
		if enforced, ok := told.Facts["enforced"].(string); ok {
			t.line("enforced", "for "+enforced, "")
		}
		t.fixes(told.Fixes)
		t.signed(told)
	} else if c.Outcome == "relayed" {
		t.line("reason", c.Reason, "")
	}
	if d := c.Detail; d != nil {
		if r := d.Refuser; r != nil {
			a.tellRefuser(t, c, r)
		}
		t.line("next", nextText(d.Next), "")
		for _, sh := range d.Shadows {
			told := sh.Tell(reason.ToOperator)
			text := sh.Check + " would have refused with " + told.Code + ": " + told.Says
			if enforced, ok := sh.Facts.Find("enforced", reason.ToOperator); ok {
				text += "; it is enforced for " + enforced.Text()
			}
			t.line("shadow", text, sh.From.String())
			t.fixes(told.Fixes)
		}
		for _, h := range d.Hints {
			t.line("hint", h.Code+": "+h.Text, "")
		}
	}
	if c.Told != nil && c.Told.Hint != "" {
		t.line("hint", c.Told.Hint, "")
	}
	t.line("client", clientText(c), "")
	t.line("caller", callerText(c), "")
	t.line("route", routeText(c), "")
	t.line("revision", a.processText(c), "")
	t.line("call", fmt.Sprintf("%s at %s UTC · took %s · %v in, %v out", c.ID, c.Start.UTC().Format("2006-01-02 15:04:05.000"), milliseconds(c.Duration),
		reason.Bytes(c.BytesIn), reason.Bytes(c.BytesOut)), "")
	fmt.Fprintln(a.out)
}

// tellRefuser says who refused behind the gateway and why, as `whygate pinpoint` does with the answer alone.
func (a *app) tellRefuser(t *teller, c *admin.Call, r *gateway.Refuser) {
	asked := pinpoint.Exchange{Request: &pinpoint.Request{Method: c.Method, URL: urlOf(c)}, At: c.Start}
	v := pinpoint.Conclude(&pinpoint.Case{Exchanges: []pinpoint.Exchange{asked}}, r.Evidence, nil, c.Status)
	who := pinpoint.ProductName(r.Product)
	if len(r.Evidence) == 0 {
		who += ": the answer carries no mark of a product"
	}
	t.line("who", who, "")
	if v.Outcome == pinpoint.Likely || v.Outcome == pinpoint.Proved {
		t.line("why", fmt.Sprintf("%s: %s, probably (%.0f %%, by the answer alone)", v.Cause, v.Title, 100*v.Confidence), "")
	} else {
		t.line("why", "the answer does not say", "")
	}
	for _, e := range r.Evidence {
		text := "· " + e.Says
		if e.Quote != "" {
			text += " “" + e.Quote + "”"
		}
		t.line("", text, "")
	}
	look := "the log of " + c.Target + " at " + c.Start.UTC().Format("15:04:05") + " UTC; the answer is its own"
	if v.Next != "" && r.Product != "unknown" {
		look += ". " + v.Next
	}
	t.line("look", look, "")
	for i, step := range v.Fix.Steps {
		label, owner := "fix", report.OwnerText(v.Fix.Owner)
		if i > 0 {
			label, owner = "", ""
		}
		t.put(label, step, owner)
	}
	for i, alt := range v.Alternatives[:min(len(v.Alternatives), 2)] {
		label := "else"
		if i > 0 {
			label = ""
		}
		t.line(label, alt.Cause+": "+alt.Title, "")
	}
	ask := "whygate pinpoint " + shellWord(a.askedURL(c))
	if c.Method != "GET" {
		ask += " -X " + shellWord(c.Method)
	}
	t.line("go on", ask+" with the same headers (-H); on the machine of "+c.Target+" add --on-server", "")
}

// askedURL is urlOf with the port of the node's listener, which records do not hold, where there is one listener.
func (a *app) askedURL(c *admin.Call) string {
	n, err := readNode(a.data)
	if err != nil || len(n.Listeners) != 1 || c.Host == "" || strings.Contains(c.Host, ":") && !strings.HasSuffix(c.Host, "]") {
		return urlOf(c)
	}
	_, port, err := net.SplitHostPort(n.Listeners[0])
	if err != nil || port == "80" || port == "443" {
		return urlOf(c)
	}
	with := *c
	with.Host += ":" + port
	return urlOf(&with)
}

// tellHead is the first line: what was called, and what became of it.
func (a *app) tellHead(mark, what, end string) {
	between := "   "
	if what, end = clean(what), clean(end); a.style.terminal && utf8.RuneCountInString(what)+utf8.RuneCountInString(end)+5 > a.style.width {
		between = "\n  "
	}
	if end == "" {
		between = ""
	}
	fmt.Fprintf(a.out, "%s %s%s%s\n", mark, a.style.strong(what), between, end)
}

// callerText tells whom the checks identified, and how.
func callerText(c *admin.Call) string {
	who := ""
	switch {
	case c.Application != "":
		who = "application " + c.Application
		if c.Credential != "" {
			who += ", key " + c.Credential
		}
	case c.Credential != "":
		return "nobody: key " + c.Credential + " was not accepted"
	case c.Reason == "key.missing":
		return "nobody: no key was sent"
	}
	if c.Detail != nil && c.Detail.Identity != nil {
		id := c.Detail.Identity
		if who != "" {
			who += ", for "
		}
		who += strconv.Quote(id.Subject) + " by " + id.Method
		if id.Issuer != "" {
			who += " of " + id.Issuer
		}
	}
	if c.Plan != "" {
		who += ", plan " + c.Plan
	}
	if c.Remaining != nil && c.Outcome != "refused" {
		who += fmt.Sprintf(", %d left of the tightest limit", *c.Remaining)
	}
	return strings.TrimPrefix(who, ", ")
}

// tellSince says whether the documents that decided are still those in use, and how to ask them.
func (a *app) tellSince(ctx context.Context, c *admin.Call) {
	cl, err := a.client()
	if err != nil {
		return
	}
	var st admin.Status
	if cl.do(ctx, "GET", "/v1/status", nil, nil, &st) != nil {
		return
	}
	ask := fmt.Sprintf("whygate explain --live %s %s --from %s", c.Method, shellWord(urlOf(c)), c.Peer)
	if c.Application != "" {
		ask += " --as " + shellWord(c.Application)
	}
	switch {
	case st.Revision != c.Revision:
		fmt.Fprintf(a.out, "%s revision %d is in use since %s, and this call was decided by revision %d.\n", a.style.warn("!"), st.Revision, reason.Stamp(st.Loaded), c.Revision)
		fmt.Fprintf(a.out, "What would it be now? Ask with the same headers (-H):\n  %s\n\n", ask)
	case c.Outcome == "allowed" && c.Steps > 1:
		fmt.Fprintf(a.out, "Why did each check let it pass? Ask with the same headers (-H):\n  %s\n\n", ask)
	}
}

// urlOf is the URL that was called, as far as a record knows it.
func urlOf(c *admin.Call) string {
	switch {
	case c.Host == "":
		return c.Path
	case c.Has("tls"):
		return "https://" + c.Host + c.Path
	}
	return "http://" + c.Host + c.Path
}

func routeText(c *admin.Call) string {
	if c.API == "" {
		return ""
	}
	text := "API " + c.API
	for _, p := range [][2]string{{"version", c.Version}, {"stage", c.Stage}, {"route", c.Route}} {
		if p[1] != "" {
			text += " " + p[0] + " " + p[1]
		}
	}
	return text
}

func (a *app) processText(c *admin.Call) string {
	parts := []string{strconv.FormatUint(c.Revision, 10)}
	node := c.Node
	if node == "" { // read from the records themselves
		n, _ := readNode(a.data)
		node = n.Node
	}
	if node != "" {
		parts = append(parts, "node "+node)
	}
	parts = append(parts, "decided in "+milliseconds(c.Decide))
	switch {
	case c.Target == "":
		parts = append(parts, "upstream not called")
	case c.Wait > 0:
		parts = append(parts, "upstream answered after "+milliseconds(c.Wait))
	default:
		parts = append(parts, plural(c.Tries, "try")+" at "+c.Target)
	}
	for _, f := range c.Flags {
		if f != "shadowed" && f != "hinted" && (f != "retried" || c.Tries < 2) {
			parts = append(parts, f)
		}
	}
	return strings.Join(parts, " · ")
}

func milliseconds(seconds float64) string {
	switch ms := seconds * 1000; {
	case ms < 0.1:
		return strconv.FormatFloat(ms, 'f', 3, 64) + " ms"
	case ms < 10:
		return strconv.FormatFloat(ms, 'f', 2, 64) + " ms"
	default:
		return strconv.FormatFloat(ms, 'f', 0, 64) + " ms"
	}
}

// clientText tells the address and how it was found.
func clientText(c *admin.Call) string {
	var hops []reason.Hop
	if c.Detail != nil {
		hops = c.Detail.Hops
		if v := c.Detail.Verdict; v != nil {
			if f, ok := v.Facts.Find("hops", reason.ToOperator); ok {
				hops, _ = f.Value.([]reason.Hop)
			}
		}
	}
	text := c.Client.String()
	for _, h := range hops {
		if h.Chosen {
			text += " — " + h.From
			if h.Why != "" {
				text += ", " + h.Why
			}
		}
	}
	for _, h := range hops {
		if !h.Chosen && (strings.HasPrefix(h.Why, "ignored") || strings.HasPrefix(h.Why, "no address")) {
			text += "; " + h.From + " " + strconv.Quote(h.Address) + ": " + h.Why
			break
		}
	}
	return text
}

// nextText says what the checks behind a refusal would have said.
func nextText(trail reason.Trail) string {
	var would, unknown []string
	for _, e := range trail {
		switch e.Outcome {
		case reason.Denied:
			told := e.Tell(reason.ToOperator)
			would = append(would, e.Check+" would refuse: "+told.Says)
		case reason.Unknown:
			unknown = append(unknown, e.Check)
		case reason.Passed:
			if text := usedText(e.Facts); text != "" {
				would = append(would, e.Check+" would pass ("+text+")")
			}
		}
	}
	if len(unknown) > 0 {
		would = append(would, "cannot be told without knowing the caller: "+strings.Join(unknown, ", "))
	}
	return strings.Join(would, "; ")
}

// usedText is "3 of 100 used" where the facts are about a limit.
func usedText(facts reason.Facts) string {
	limit, ok := facts.Find("limit", reason.ToOperator)
	for name, word := range map[string]string{"used": " used", "in_flight": " in flight"} {
		if n, found := facts.Find(name, reason.ToOperator); ok && found {
			return n.Text() + " of " + limit.Text() + word
		}
	}
	return ""
}

// teller prints labelled lines with something at the right margin.
type teller struct {
	a *app
}

const labelWidth = 12

func (t *teller) line(label, text, right string) {
	if text == "" {
		return
	}
	t.put(label, text, right)
}

func (t *teller) put(label, text, right string) {
	s := t.a.style
	for i, l := range s.columns(labelWidth, text, right) {
		if i > 0 {
			label = ""
		}
		fmt.Fprintln(t.a.out, "  "+s.soft(fmt.Sprintf("%-*s", labelWidth-2, label))+l)
	}
}

// methods tells what each of several methods of authentication made of the call.
func (t *teller) methods(told *reason.Told) {
	saw := textsIn(told.Facts["saw"])
	for i, text := range textsIn(told.Facts["tried"]) {
		label := "methods"
		name, _, _ := strings.Cut(text, ": ")
		for _, s := range saw {
			if what, ok := strings.CutPrefix(s, name+": "); ok {
				text += ", seen " + what
			}
		}
		if i > 0 {
			label = ""
		}
		t.put(label, text, "")
	}
}

// textsIn is a fact that is a list of texts, as it was recorded or as JSON has it.
func textsIn(fact any) (texts []string) {
	switch list := fact.(type) {
	case []string:
		return list
	case []any:
		for _, v := range list {
			texts = append(texts, fmt.Sprint(v))
		}
	}
	return texts
}

// signed tells the signature base that the gateway computed, line by line as it was hashed.
func (t *teller) signed(told *reason.Told) {
	base, _ := told.Facts["base"].(string)
	for i, l := range strings.Split(base, "\n") {
		if label := "base"; base != "" {
			if i > 0 {
				label = ""
			}
			fmt.Fprintln(t.a.out, "  "+t.a.style.soft(fmt.Sprintf("%-*s", labelWidth-2, label))+clean(l))
		}
	}
}

// fixes lists the ways out, each with who can take it.
func (t *teller) fixes(list []reason.Fix) {
	for i, f := range list {
		text, label := f.Text, "fix"
		if i > 0 {
			text, label = "or "+text, ""
		}
		t.put(label, text, whoCan(f))
	}
}

// whoCan names who can take a way out. Where the text says whom to ask, it need not be said again.
func whoCan(f reason.Fix) string {
	if strings.HasPrefix(f.Text, "ask ") {
		return "they can"
	}
	switch f.By {
	case reason.Caller:
		return "you can"
	case reason.Application:
		return "the application's owner can"
	case reason.Operator:
		return "the operator can"
	}
	return "the API's owner can"
}
