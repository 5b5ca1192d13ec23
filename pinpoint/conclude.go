package pinpoint

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// What the shares and grades of a verdict need; docs/decisions/006-weighing-evidence.md tells why.
const (
	likelyShare   = 0.5  // below it, no cause is named
	conflictShare = 0.65 // the same where good evidence speaks for something else
	provedShare   = 0.75 // below it, grades A and B become C
	mostAnswer    = Fair // what the text of an answer still counts when another cause has hard proof
	mostPerCause  = 12.0 // what all evidence for a cause counts together
	flipPrimary   = 3.5  // a flip of the experiment that a cause is known by
	flipOther     = Fair // a flip that the cause would show as well
	flipAgainst   = 2.0  // a flip that the cause does not explain
	flipSibling   = Fair // a flip by another change of the part that the cause is about, which it does not name
	passOnce      = 1.2  // the change passed once, without the repeated refusal
	sameAgainst   = 1.0  // the change did not pass although the cause expects so
	mostAgainst   = 3.0  // what experiments that failed count together
	unseen        = 3.0  // a cause of one product, where nothing shows that product
	laterHop      = 0.2  // part of its weight that a refusal behind another refusal keeps
)

// ceiling is the confidence that a grade can carry.
var ceiling = map[string]float64{"A": 0.99, "B": 0.97, "C": 0.95, "D": 0.8}

// vanishing are causes that go away by themselves: for them a request that passes now proves nothing.
var vanishing = []string{"rate-limit", "rate-limit-as-403", "rate-limit-as-503", "concurrency-limit", "quota-exceeded", "ip-temporarily-banned",
	"cdn-cached-refusal", "waf-rate-rule", "waf-escalated-ban", "framework-throttle", "app-maintenance", "jwt-not-yet-valid", "jwt-clock-skew", "app-account-limit"}

// strength orders sources: what the server says itself comes last in the list and first in weight.
var strength = map[Source]int{FromRequest: 1, FromAnswer: 2, FromChain: 2, FromReplica: 3, FromFiles: 4, FromConfig: 5, FromExperiment: 6, FromLog: 7}

var sources = []Source{FromRequest, FromAnswer, FromChain, FromReplica, FromFiles, FromConfig, FromExperiment, FromLog}

// hypothesis is a cause that something speaks for.
type hypothesis struct {
	cause   Cause
	clues   []Clue // for it
	against []Clue
	flips   []Experiment // that it explains
	odd     []Experiment // flips that it does not explain
	failed  float64      // weight of experiments that should have passed
	passed  float64      // and of those that did, without a flip
	borrows []*hypothesis
	invited bool    // by a flip alone
	own     float64 // its own evidence, without what it borrows
	score   float64
	share   float64
}

// Conclude weighs the clues and experiments to a verdict. Status is what the client saw, 0 when that is not known. The rules, and the weights, stand
// in docs/decisions/006-weighing-evidence.md. It sends nothing, reads nothing, and is the same for the
// same input.
func Conclude(c *Case, clues []Clue, experiments []Experiment, status int) Verdict {
	if c == nil {
		c = &Case{}
	}
	w := &weighing{c: c, know: catalogue(), status: status, experiments: experiments}
	if x := c.Exchange(); status == 0 && x != nil && x.Answer != nil {
		w.status = x.Answer.Status
	}
	w.accept(clues)
	w.refuser()
	w.suppose()
	w.orderHops()
	w.weigh()
	return w.verdict()
}

type weighing struct {
	c           *Case
	know        *causes
	status      int
	experiments []Experiment
	clues       []Clue
	who         Refuser
	whoClue     *Clue
	passedOn    []string
	by          map[string]*hypothesis
	list        []*hypothesis // by score
	hard        bool          // some hypothesis has hard proof
}

// sameLine is equal for lines that say the same of two requests: all but their times and numbers.
func sameLine(c *Clue) string {
	var b strings.Builder
	b.WriteString(c.Says)
	for _, name := range slices.Sorted(maps.Keys(c.Names)) {
		if name != "unique_id" && name != "time" && name != "port" {
			fmt.Fprintf(&b, "\x00%s=%s", name, c.Names[name])
		}
	}
	if len(c.Names) == 0 {
		b.WriteString(numbers.ReplaceAllString(hexes.ReplaceAllString(c.Quote, "*"), "#"))
	}
	return b.String()
}

// broad are operators that change so much that a flip of them points to no cause by itself.
var broad = []string{"path-sibling", "path-nonexistent", "auth-swap", "wait", "from-elsewhere", "direct-origin", "body-empty", "query-drop", "query-one", "cookie-drop"}

// elsewhere are operators whose flip says nothing against a cause that does not expect it.
var elsewhere = []string{"method-options", "path-sibling", "path-nonexistent", "slash-add", "slash-strip", "host-other"}

// absent are causes that a request proves only if all of it was handed in.
var absent = []string{"auth-missing", "api-key-missing", "session-cookie-not-sent", "csrf-cookie-missing", "csrf-token-missing", "csrf-referer-missing",
	"auth-header-stripped", "waf-missing-headers", "session-expired"}

// accept takes the clues that count, and brings them into one form.
func (w *weighing) accept(clues []Clue) {
	sanitized, cut := false, false
	for _, g := range w.c.Gaps {
		sanitized = sanitized || g.Kind == "sanitized" || g.Kind == "provisional-headers" || g.Kind == "variable"
		cut = cut || g.Kind == "body-cut" || g.Kind == "file-not-read"
	}
	seen := map[[4]string]bool{}
	for _, c := range clues[:min(len(clues), 2000)] {
		if math.IsNaN(c.Weight) {
			c.Weight = 0
		}
		c.Weight = max(-Certain, min(Certain, c.Weight))
		if sanitized && c.Source == FromRequest && slices.Contains(absent, c.Cause) {
			continue
		}
		if cut && c.Source == FromRequest && (c.Cause == "body-malformed" || c.Cause == "csrf-token-missing" || c.Cause == "schema-violation") {
			continue
		}
		// One limiter answers with the status that it was given; the status names the entry.
		if c.Cause == "rate-limit" || c.Cause == "rate-limit-as-403" || c.Cause == "rate-limit-as-503" {
			switch w.status {
			case 403:
				c.Cause = "rate-limit-as-403"
			case 429:
				c.Cause = "rate-limit"
			case 503:
				c.Cause = "rate-limit-as-503"
			}
		}
		key := [4]string{string(c.Source), c.ID, c.Cause, c.Quote}
		if c.Source == FromAnswer { // the answer to a repetition holds another time or id, and tells the same
			key[3] = c.Says
		}
		if c.Source == FromLog && c.Quote != "" { // the same line about a repetition of the request
			key[3] = c.At.File + "\x00" + sameLine(&c)
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		w.clues = append(w.clues, c)
	}
}

// refuser decides who refused: a log that says so, then a configuration, then the answer. A product
// that only handed the answer on did not.
func (w *weighing) refuser() {
	for _, c := range w.clues {
		if c.Against && c.Cause == "" && c.Refuser != "" && c.Weight >= Fair {
			w.passedOn = append(w.passedOn, c.Refuser)
		}
	}
	way := Hops(w.c)
	best := -1.0
	for i, c := range w.clues {
		// One product may stand twice in a row: it handed on what its like had written.
		twice := c.Source == FromAnswer && c.Cause != "" && c.Weight >= Strong
		if c.Refuser == "" || c.Against || takesOff(c) || slices.Contains(w.passedOn, c.Refuser) && !twice {
			continue
		}
		if c.Source == FromLog && c.Weight <= Hint || c.Source == FromReplica {
			continue
		}
		// A text that many programs send names nobody by itself: a bare "Forbidden" is Traefik's, and that of any Go program.
		if c.Source == FromAnswer && c.Weight < 0 && !slices.ContainsFunc(way, func(h Hop) bool { return h.Product == c.Refuser }) {
			continue
		}
		// Order of the clues counts among equals: Match puts the entry with more conditions first.
		v := float64(strength[c.Source])*100 - float64(c.Hop)
		if c.Source == FromAnswer {
			v = 200 + math.Tanh(c.Weight)
			if c.Cause != "" && c.Weight >= Fair {
				v++
			}
		} else if c.ID == ApplicationLog {
			v = 150 // which program it is, not which framework: a page that names one says more
		} else if c.Weight < Strong {
			v /= 2
		}
		if v > best+1e-9 {
			best = v
			w.whoClue = &w.clues[i]
			w.who = Refuser{Product: c.Refuser, Hop: c.Hop, Decider: c.Names["decider"]}
		}
	}
	if x := w.c.Exchange(); x != nil && x.Request != nil {
		w.who.Host = x.Request.Host()
	} else if w.c.Line != nil {
		w.who.Host = w.c.Line.Host
	}
}

// takesOff says that a clue tells who takes something off the request: whoever misses it refuses, and stands behind.
func takesOff(c Clue) bool { return c.Cause == "auth-header-stripped" && c.Source == FromConfig }

// suppose lists what is possible: causes that a clue speaks for, and those that a flip is explained by.
func (w *weighing) suppose() {
	w.by = map[string]*hypothesis{}
	get := func(id string) *hypothesis {
		i, ok := w.know.byID[id]
		if !ok {
			return nil
		}
		h := w.by[id]
		if h == nil {
			h = &hypothesis{cause: w.know.causes[i]}
			w.by[id] = h
			w.list = append(w.list, h)
		}
		return h
	}
	for _, c := range w.clues {
		if c.Against || c.Cause == "" || c.Cause == refuserOnly || c.Cause == notReproduced || c.Cause == baselineDiffers || c.Cause == inputIncomplete {
			continue
		}
		if w.inviting(c) {
			get(c.Cause)
		}
	}
	for _, c := range w.clues {
		if h := w.by[c.Cause]; !c.Against && h != nil {
			h.clues = append(h.clues, c)
		}
	}
	for _, c := range w.clues {
		if h := w.by[c.Cause]; c.Against && h != nil {
			// A mechanism is known by whichever of its conditions holds. Where the configuration was evaluated and
			// names the rule, that another condition is not the one says nothing against it.
			if c.Source == FromExperiment && w.know.kind[c.Cause] == "mechanism" && slices.ContainsFunc(h.clues, func(k Clue) bool { return k.Source == FromConfig && k.Weight >= Certain }) {
				continue
			}
			h.against = append(h.against, c)
		}
	}
	for _, e := range w.experiments {
		// What package replay made clues of is not counted twice, and does not invite more causes.
		// A flip of an experiment that changes much invites none; others invite the causes that are known by it.
		if e.Flip && e.Skipped == "" && !w.told(e.Operator) && !slices.Contains(broad, e.Operator) {
			for _, k := range w.know.causes {
				primary := len(k.Expect) > 0 && k.Expect[0] == Expect{e.Operator, e.Shows}
				if !k.Pseudo && primary && e.Shows != "same" && (w.status == 0 || slices.Contains(k.Statuses, w.status)) && w.by[k.ID] == nil {
					get(k.ID).invited = true
				}
			}
		}
	}
	for _, e := range w.experiments {
		if e.Skipped != "" || e.Operator == "repeat" {
			continue
		}
		for _, h := range w.list {
			w.try(h, e)
		}
	}
	for _, h := range w.list {
		h.odd = slices.DeleteFunc(h.odd, func(e Experiment) bool {
			switch {
			case slices.Contains(elsewhere, e.Operator): // something else was asked for: OPTIONS is often answered by another hand
				return true
			case slices.ContainsFunc(h.flips, func(f Experiment) bool { return part(f.Operator) == part(e.Operator) }):
				h.failed += flipSibling // another way to change what is the cause anyway: no contradiction
				return true
			}
			return false
		})
	}
	// The log of a product was read and is silent: that fits some causes and not others.
	for _, c := range w.clues {
		if c.ID != SilentLog || c.Source != FromLog || c.Cause != "" {
			continue
		}
		for _, h := range w.list {
			s := c
			s.Cause, s.Weight = h.cause.ID, Hint
			if w.silent(h, c.Refuser) {
				h.clues = append(h.clues, s)
			} else if h.cause.Layer == "web-server" || h.cause.Layer == "files" {
				s.Against, s.Weight = true, Fair
				h.against = append(h.against, s)
			}
		}
	}
}

func (w *weighing) silent(h *hypothesis, product string) bool {
	return slices.Contains(h.cause.Silent, product)
}

// part is what an operator changes: "ua" of ua-browser and ua-drop.
func part(operator string) string {
	p, _, _ := strings.Cut(operator, "-")
	return p
}

// fits says that a cause is possible for a request at all: credentials that are not there cannot be refused.
func (w *weighing) fits(cause *Cause) bool {
	x := w.c.Exchange()
	if x == nil || x.Request == nil || cause.Layer != "auth" || strings.HasSuffix(cause.ID, "-missing") || strings.HasPrefix(cause.ID, "mtls-") || strings.HasPrefix(cause.ID, "session-") {
		return true
	}
	u, err := x.Request.Parsed()
	return err != nil || u.RawQuery != "" || u.User != nil || slices.ContainsFunc(x.Request.Header, func(f Field) bool {
		return secretName(f.Name, false) || strings.Contains(f.Value, opening)
	})
}

// inviting says that a clue makes its cause possible by itself. An experiment does when its change passed and
// points to something: that another path passes, or that the refusal stays, fits half the catalogue.
func (w *weighing) inviting(c Clue) bool {
	if c.Source != FromExperiment {
		return true
	}
	if i, ok := w.know.byID[c.Cause]; ok && !w.fits(&w.know.causes[i]) {
		return false
	}
	if c.ID == "repeat" { // it tells of the refusal as a whole
		return true
	}
	if slices.Contains(broad, c.ID) && c.ID != "wait" {
		i, ok := w.know.byID[c.Cause] // asked for on purpose, the next hop says who refuses
		return ok && c.ID == "direct-origin" && c.Weight >= Fair && len(w.know.causes[i].Expect) > 0 && w.know.causes[i].Expect[0].Operator == c.ID
	}
	known := false
	for _, e := range w.experiments {
		if e.Operator == c.ID && e.Skipped == "" {
			if known = true; e.Shows == "passes" {
				return true
			}
		}
	}
	return !known
}

// told says that a clue was made of an operator's result.
func (w *weighing) told(operator string) bool {
	return slices.ContainsFunc(w.clues, func(c Clue) bool { return c.Source == FromExperiment && c.ID == operator })
}

// try holds an experiment against a hypothesis.
func (w *weighing) try(h *hypothesis, e Experiment) {
	of := func(c Clue) bool { return c.Source == FromExperiment && c.ID == e.Operator }
	if slices.ContainsFunc(h.clues, of) || slices.ContainsFunc(h.against, of) {
		if e.Flip && slices.ContainsFunc(h.clues, of) {
			h.flips = append(h.flips, e)
		}
		return
	}
	expected := w.know.expected(h.cause.ID, e.Operator)
	switch {
	case e.Flip && expected == e.Shows:
		h.flips = append(h.flips, e)
		weight := flipOther
		if len(h.cause.Expect) > 0 && h.cause.Expect[0].Operator == e.Operator {
			weight = flipPrimary
		}
		h.clues = append(h.clues, Clue{Source: FromExperiment, ID: e.Operator, Cause: h.cause.ID, Weight: weight,
			Says: fmt.Sprintf("Refused, not refused with one change (%s: %s), and refused again.", e.Operator, strings.TrimSuffix(excerpt(e.Says), "."))})
	case e.Flip:
		h.odd = append(h.odd, e)
	case e.Shows == "passes" && expected == "passes":
		h.passed = max(h.passed, passOnce)
	case e.Shows == "same" && expected == "passes":
		h.failed = min(h.failed+sameAgainst/float64(max(1, h.cause.Ways())), mostAgainst)
	case e.Shows == "passes" && expected == "same":
		h.failed = min(h.failed+sameAgainst/2, mostAgainst)
	}
}

// orderHops lets the earliest refusal win: what the configuration of a later hop would do is not
// reached. A later hop's own log shows that the earlier one let the request pass.
func (w *weighing) orderHops() {
	evaluated := func(c Clue) bool {
		return (c.Source == FromConfig || c.Source == FromFiles) && c.Hop > 0 && c.Weight >= Strong
	}
	first, logged := 0, 0
	for _, h := range w.list {
		for _, c := range h.clues {
			if evaluated(c) && (first == 0 || c.Hop < first) {
				first = c.Hop
			}
			if names(c) && c.Hop > 0 && (logged == 0 || c.Hop < logged) {
				logged = c.Hop
			}
		}
	}
	if logged > 0 {
		first = logged
	}
	if first == 0 {
		return
	}
	for _, h := range w.list {
		for i, c := range h.clues {
			if evaluated(c) && c.Hop != first {
				h.clues[i].Weight *= laterHop
			}
		}
	}
}

// names says that a clue is a line of a server's log that names its cause for this request.
func names(c Clue) bool {
	return c.Source == FromLog && c.ID != SilentLog && !c.Against && c.Cause != "" && c.Weight >= Strong
}

// proof says that a clue decides more than a text does.
func proof(c Clue) bool {
	return names(c) || !c.Against && c.Weight >= Strong && (c.Source == FromConfig || c.Source == FromFiles || c.Source == FromExperiment)
}

func (h *hypothesis) hard() bool {
	return slices.ContainsFunc(h.clues, proof)
}

// weigh gives each hypothesis a score and its share of what is possible.
func (w *weighing) weigh() {
	for _, h := range w.list {
		w.hard = w.hard || h.hard()
		h.own = h.evidence(false)
	}
	for _, h := range w.list {
		for _, o := range w.list {
			if w.refines(h, o) {
				h.borrows = append(h.borrows, o)
			}
		}
	}
	for _, h := range w.list {
		hard := h.hard()
		all := hypothesis{clues: slices.Clone(h.clues)}
		prior := h.cause.Prior
		for _, b := range h.borrows {
			hard = hard || b.hard()
			prior = max(prior, b.cause.Prior) // what is finer is not less likely for being finer
			for _, c := range b.clues {
				// One experiment is one piece of evidence, for the cause and for what it refines.
				if !slices.ContainsFunc(all.clues, func(m Clue) bool { return m.Source == c.Source && m.ID == c.ID && c.Source == FromExperiment }) {
					all.clues = append(all.clues, c)
				}
			}
		}
		h.score = prior + min(all.evidence(w.hard && !hard), mostPerCause) + h.passed - h.failed - w.strange(h)
		h.score -= sumBySource(h.against)
		for range h.odd {
			h.score -= flipAgainst
		}
	}
	slices.SortStableFunc(w.list, func(a, b *hypothesis) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(len(b.borrows), len(a.borrows)), strings.Compare(a.cause.ID, b.cause.ID))
	})
	for _, h := range w.list {
		rest := 1.0 // something else
		for _, o := range w.list {
			if o != h && !slices.Contains(h.borrows, o) {
				rest += math.Exp(o.score)
			}
		}
		h.share = math.Exp(h.score) / (math.Exp(h.score) + rest)
	}
}

// refines says that h is a finer name of o, and has evidence of its own for being it.
func (w *weighing) refines(h, o *hypothesis) bool {
	if h == o {
		return false
	}
	if w.know.ancestor(h.cause.ID, o.cause.ID) {
		return h.beside(o) >= Hint
	}
	return w.know.kind[o.cause.ID] == "mechanism" && w.know.kind[h.cause.ID] == "condition" && h.own >= Fair
}

// beside is the evidence that a hypothesis has and another has not: an experiment that tells as much of both, or that
// was never held against the request without the change, does not make it the finer name.
func (h *hypothesis) beside(o *hypothesis) float64 {
	own := hypothesis{}
	for _, c := range h.clues {
		if c.Source == FromExperiment && (c.Weight < Strong || slices.ContainsFunc(o.clues, func(m Clue) bool { return m.Source == c.Source && m.ID == c.ID && m.Weight >= c.Weight })) {
			continue
		}
		own.clues = append(own.clues, c)
	}
	return own.evidence(false)
}

// untold says that nothing but experiments speaks for a hypothesis, tried that not even a flip does.
func (h *hypothesis) untold() bool {
	return !slices.ContainsFunc(h.clues, func(c Clue) bool { return c.Source != FromExperiment && c.ID != SilentLog && c.ID != "log-silence" })
}

func (h *hypothesis) tried() bool {
	return h.untold() && !slices.ContainsFunc(h.clues, func(c Clue) bool { return c.Weight >= Strong })
}

// evidence adds up clues. Those of one source tell much the same: the second counts half, the third a
// quarter, so that a source never counts more than twice its best clue. capped bounds what texts
// count beside hard proof of another cause.
func (h *hypothesis) evidence(capped bool) float64 {
	texts, rest := 0.0, 0.0
	sums := bySource(h.clues)
	for _, source := range sources { // in order, so that the sum is always the same
		sum := sums[source]
		if source == FromAnswer || source == FromRequest || source == FromChain || source == FromReplica {
			texts += sum
		} else {
			rest += sum
		}
	}
	if capped {
		texts = min(texts, mostAnswer)
	}
	return texts + rest
}

func sumBySource(clues []Clue) (sum float64) {
	sums := bySource(clues)
	for _, s := range sources {
		sum += sums[s]
	}
	return sum
}

func bySource(clues []Clue) map[Source]float64 {
	lists := map[Source][]float64{}
	for _, c := range clues {
		lists[c.Source] = append(lists[c.Source], c.Weight)
	}
	sums := map[Source]float64{}
	for source, list := range lists {
		slices.SortFunc(list, func(a, b float64) int { return cmp.Compare(b, a) })
		part := 1.0
		for i, v := range list {
			if v <= 0 && i > 0 {
				break // a doubtful clue takes nothing from a good one
			}
			sums[source] += v * part
			part /= 2
		}
	}
	return sums
}

// prefixes are products whose own causes have their name.
var prefixes = map[string][]string{
	"nginx-": {"nginx", "openresty", "kong", "apisix", "tengine"}, "apache-": {"apache-httpd"}, "iis-": {"iis", "http-sys"}, "lighttpd-": {"lighttpd"}, "tomcat-": {"tomcat"},
	"caddy-": {"caddy"}, "haproxy-": {"haproxy"}, "envoy-": {"envoy", "traefik", "whygate", "istio"}, "varnish-": {"varnish", "fastly"}, "browser-integrity-": {"cloudflare"}, "php-": {"php-fpm", "nginx", "apache-httpd", "caddy", "lighttpd"},
}

// strange is how unlikely a cause is at the product that refused.
func (w *weighing) strange(h *hypothesis) float64 {
	unlikely := 0.0
	if h.tried() {
		unlikely = Fair
	}
	if (h.invited || h.tried()) && w.status != 0 && w.status != h.cause.Statuses[0] {
		unlikely += Hint
	}
	if w.who.Product == "" || w.whoClue == nil {
		// Nothing shows that product: what any server may do is likelier.
		shown := slices.ContainsFunc(h.clues, func(c Clue) bool { return c.Source != FromExperiment })
		for prefix := range prefixes {
			if !shown && strings.HasPrefix(h.cause.ID, prefix) {
				unlikely += unseen
			}
		}
		return unlikely
	}
	if w.whoClue.Cause == h.cause.ID {
		return unlikely
	}
	for prefix, products := range prefixes {
		if strings.HasPrefix(h.cause.ID, prefix) && !slices.Contains(products, w.who.Product) {
			if slices.ContainsFunc(h.clues, names) {
				return 0
			}
			return unlikely + Strong
		}
	}
	// A web server's stock page is rarely what the layers behind or before it print.
	looked := slices.ContainsFunc(h.clues, func(c Clue) bool { return proof(c) && c.Source != FromExperiment })
	if slices.Contains([]string{"nginx", "apache-httpd", "lighttpd", "iis", "litespeed", "haproxy"}, w.who.Product) && w.whoClue.Source == FromAnswer && !looked {
		switch h.cause.Layer {
		case "framework", "application", "storage":
			return unlikely + Strong
		case "cdn":
			if h.cause.ID != "cdn-cached-refusal" && h.cause.ID != "hotlink-referer" {
				return unlikely + Fair
			}
		case "auth", "gateway":
			if h.invited || h.untold() {
				return unlikely + Fair
			}
		}
	}
	return unlikely
}

// grade is how well a hypothesis is proved: A a log names it, or configuration and permissions decide it and the log agrees
// or is silent as it must; B a flip, or an evaluated configuration; C a text; D the rest.
func (w *weighing) grade(h *hypothesis) string {
	logged, agrees := false, false
	flip, evaluated, text := false, false, false
	for _, c := range h.clues {
		switch c.Source {
		case FromLog:
			logged = logged || names(c)
			agrees = agrees || c.Weight >= Hint
		case FromExperiment:
			flip = flip || c.Weight >= Strong
		case FromConfig, FromFiles:
			evaluated = evaluated || c.Weight >= Strong
		case FromAnswer:
			text = text || c.Weight >= 1.35 // confidence 0.8
		case FromRequest, FromChain, FromReplica:
			text = text || c.Weight >= Strong
		}
	}
	for _, b := range h.borrows {
		for _, c := range b.clues {
			agrees = agrees || names(c)
			// The log names the refusal, and beside it what set it off.
			logged = logged || names(c) && slices.ContainsFunc(h.clues, func(m Clue) bool { return m.Source == FromLog && m.ID != SilentLog })
		}
	}
	grade := "D"
	switch {
	case logged, evaluated && agrees:
		grade = "A"
	case flip, evaluated:
		grade = "B"
	case text:
		grade = "C"
	}
	if w.conflict(h) {
		grade = string(min(grade[0]+1, 'D'))
	}
	if h.share < provedShare && grade < "C" {
		grade = "C"
	}
	return grade
}

// conflict says that good evidence speaks against a hypothesis, or for another cause as well as for it.
func (w *weighing) conflict(h *hypothesis) bool {
	best := 0
	for _, c := range h.clues {
		if proof(c) || c.Weight >= Fair {
			best = max(best, strength[c.Source])
		}
	}
	for _, c := range h.against {
		if c.Weight >= Fair && strength[c.Source] >= strength[FromReplica] {
			return true
		}
	}
	if len(h.odd) > 0 {
		return true
	}
	for _, o := range w.list {
		if o == h || slices.Contains(h.borrows, o) || slices.Contains(o.borrows, h) || w.know.root(o.cause.ID) == w.know.root(h.cause.ID) {
			continue
		}
		for _, c := range o.clues {
			shared := slices.ContainsFunc(h.clues, func(m Clue) bool { return m.Source == FromExperiment && m.Source == c.Source && m.ID == c.ID })
			if c.Weight >= Strong && strength[c.Source] >= best && c.Source != FromRequest && o.score > 0 && !shared {
				return true
			}
		}
	}
	return false
}

// verdict puts the result into words.
func (w *weighing) verdict() Verdict {
	v := Verdict{Refuser: w.who, Experiments: w.experiments, Gaps: w.c.Gaps, Outcome: Unknown}
	var top *hypothesis
	if len(w.list) > 0 {
		top = w.general(w.list[0])
	}
	refused := w.status == 0 || w.status >= 400
	pageSays := slices.ContainsFunc(w.clues, func(c Clue) bool { // a refusal with another status
		return c.Source == FromAnswer && !c.Against && c.Cause != "" && c.Weight >= Fair
	})
	if top != nil && !refused && !slices.ContainsFunc(top.clues, func(c Clue) bool {
		return c.Weight > Hint && (c.Source == FromAnswer || c.Source == FromLog || c.Source == FromChain)
	}) {
		top = nil
	}
	grade := ""
	if top != nil {
		v.Alternatives = w.alternatives(top)
		grade = w.grade(top)
		// A hint alone is no verdict.
		positive := sumBySource(top.clues) + sumBySource(borrowed(top))
		text := slices.ContainsFunc(top.clues, func(c Clue) bool { return c.Source == FromAnswer && c.Weight > Hint })
		least := likelyShare
		if w.conflict(top) {
			least = conflictShare
		}
		if top.share < least || positive <= Hint && !text {
			if top.score >= 0 || len(top.against) == 0 && top.failed == 0 {
				v.Alternatives = append([]Alternative{w.alternative(top, nil)}, v.Alternatives...)
			}
			v.Alternatives = v.Alternatives[:min(len(v.Alternatives), 5)]
			top = nil
		}
	}
	pseudo, why := w.standIn(top, grade)
	switch {
	case pseudo != "":
		if top != nil {
			v.Alternatives = append([]Alternative{w.alternative(top, nil)}, v.Alternatives...)
		}
		v.Cause, v.Outcome = pseudo, NotReproduced
		if pseudo == inputIncomplete {
			v.Outcome = InputIncomplete
		}
		k, _ := CauseByID(pseudo)
		v.Title, v.Fix = k.Title, k.Fix
		v.Fix.Steps = fillAll(k.Fix.Steps, nil)
		if pseudo == notReproduced && w.neverRefused() {
			v.Title, v.Fix = "no refusal was met", Fix{}
			v.Gaps = without(v.Gaps, "no-answer")
		}
		if pseudo == notReproduced && w.atTimes() != "" {
			v.Title, v.Fix = "a refusal that comes at times only", Fix{}
		}
		v.Evidence = w.evidence(nil)
		v.Next = why
		v.Sentence = w.sentence(&v, "")
		return v
	case top != nil:
		v.Cause, v.Title, v.Layer = top.cause.ID, top.cause.Title, top.cause.Layer
		v.Grade = grade
		v.Confidence = math.Round(100*min(top.share, ceiling[grade])) / 100
		v.Outcome = Likely
		if grade < "C" {
			v.Outcome = Proved
		}
		if v.Outcome == Proved { // the rest of the exchange would tell nothing more
			v.Gaps = without(v.Gaps, "no-request", "no-answer")
		}
		w.blame(&v, top)
		named := w.named(top)
		v.Fix = w.fix(top, named)
		v.Evidence = w.evidence(top)
		if len(v.Alternatives) > 0 && grade != "A" {
			v.Next = v.Alternatives[0].Separate
		}
		if v.Next == "" && v.Outcome == Likely {
			v.Next = w.asks()
		}
		v.Sentence = w.sentence(&v, place(top))
		return v
	}
	v.Evidence = w.evidence(nil)
	switch {
	case !refused && !pageSays:
		v.Sentence = fmt.Sprintf("Nothing was refused: the answer has status %d, and nothing in it stands for a refusal.", w.status)
		v.Refuser = Refuser{Host: v.Refuser.Host}
		v.Next = "Hand in the exchange that was refused."
		return v
	case w.who.Product != "":
		k, _ := CauseByID(refuserOnly)
		v.Cause, v.Title, v.Fix = refuserOnly, k.Title, Fix{Owner: k.Fix.Owner, Steps: fillAll(k.Fix.Steps, nil), Risk: k.Fix.Risk}
	}
	v.Next = w.asks()
	sent := 0
	var skipped *Experiment
	for i, e := range w.experiments {
		if e.Skipped == "" && e.Status != 0 {
			sent++
		}
		if skipped == nil && flagOf.MatchString(e.Skipped) {
			skipped = &w.experiments[i]
		}
	}
	if skipped != nil {
		v.Next += " " + offer(skipped)
		if sent == 0 {
			v.Outcome = Unsafe
		}
	}
	v.Next = strings.TrimSpace(v.Next)
	v.Sentence = w.sentence(&v, "")
	return v
}

var flagOf = regexp.MustCompile(`--[a-z-]+`)

// offer says which flag would let more be tried, and what it would send.
func offer(e *Experiment) string {
	target := e.URL
	if u, err := url.Parse(e.URL); err == nil {
		target = cmp.Or(u.EscapedPath(), "/")
	}
	what := e.Method + " " + target
	if rest, ok := strings.CutPrefix(e.Skipped, "needs another"); ok { // something that only the user has
		return excerpt("With another" + strings.TrimSuffix(rest, ".") + " more can be tried: " + what + ".")
	}
	flag, why, _ := strings.Cut(strings.TrimPrefix(e.Skipped, "needs "), ": ")
	if !strings.HasPrefix(flag, "--") {
		return excerpt("More can be tried: " + what + "; it " + strings.TrimSuffix(e.Skipped, ".") + ".")
	}
	text := fmt.Sprintf("With %s more can be tried: %s, changed: %s", flag, what, strings.TrimSuffix(e.Says, "."))
	if why != "" {
		text += " (" + strings.TrimSuffix(why, ".") + ")"
	}
	return excerpt(text + ".")
}

// general is the cause to name: when several refinements of one cause share what is known, the cause
// that they refine.
func (w *weighing) general(top *hypothesis) *hypothesis {
	// The configuration names the rule, and what set it off is guessed from the request: the rule is the verdict.
	if w.know.kind[top.cause.ID] == "condition" && !top.hard() {
		for _, b := range top.borrows {
			if w.know.kind[b.cause.ID] == "mechanism" && slices.ContainsFunc(b.clues, func(c Clue) bool { return c.Source == FromConfig && c.Weight >= Certain }) {
				b.share = max(b.share, top.share)
				return b
			}
		}
	}
	if top.share >= likelyShare+0.1 || len(top.borrows) == 0 {
		return top
	}
	for _, b := range top.borrows {
		if !b.hard() || !w.know.ancestor(top.cause.ID, b.cause.ID) {
			continue
		}
		family, rest := 0.0, 1.0
		for _, h := range w.list {
			if h == b || w.know.ancestor(h.cause.ID, b.cause.ID) {
				family += math.Exp(h.score)
			} else {
				rest += math.Exp(h.score)
			}
		}
		b.share = family / (family + rest)
		return b
	}
	return top
}

// standIn is the pseudo-cause that stands in for a verdict, and what to do next: the input lacks what
// matters, or the refusal did not come back. What a log names stands anyway.
func (w *weighing) standIn(top *hypothesis, grade string) (string, string) {
	if top != nil && grade == "A" {
		return "", ""
	}
	for _, c := range w.clues {
		if c.Against || c.Weight < Hint {
			continue
		}
		switch c.Cause {
		case notReproduced, baselineDiffers:
			if top != nil && slices.Contains(vanishing, top.cause.ID) {
				continue
			}
			if c.Cause == notReproduced {
				return c.Cause, w.refusal()
			}
			return c.Cause, "Hand in the request with everything that the first one had; the replay meets another refusal, and its cause would be another."
		case inputIncomplete:
			if top == nil || grade > "C" {
				return c.Cause, c.Says
			}
		}
	}
	for _, e := range w.experiments {
		if e.Operator == "repeat" && e.Shows == "passes" && e.Skipped == "" && !slices.ContainsFunc(w.experiments, func(o Experiment) bool { return o.Flip }) &&
			(top == nil || !slices.Contains(vanishing, top.cause.ID)) {
			return notReproduced, w.refusal()
		}
	}
	if w.c.Line != nil && top == nil && (w.who.Product != "" || w.passedOn != nil) {
		return "", "" // the line says which hop's log to read next
	}
	for _, g := range w.c.Gaps {
		if g.Blocks && (top == nil || grade > "C") {
			return inputIncomplete, g.Says
		}
	}
	return "", ""
}

// without leaves out gaps of some kinds.
func without(gaps []Gap, kinds ...string) []Gap {
	return slices.DeleteFunc(slices.Clone(gaps), func(g Gap) bool { return slices.Contains(kinds, g.Kind) })
}

// atTimes says how often the same request was refused, "" when all tries were alike.
func (w *weighing) atTimes() string {
	same, tries := 0, 0
	for _, e := range w.experiments {
		if e.Operator == "repeat" && e.Skipped == "" && e.Status != 0 {
			if tries++; e.Shows == "same" {
				same++
			}
		}
	}
	if same == 0 || same == tries {
		return ""
	}
	return fmt.Sprintf("in %d of %d tries", same, tries)
}

// refusal says how to hand in a refusal that does not come by itself.
func (w *weighing) refusal() string {
	if w.atTimes() != "" {
		return "Hand in a line of the access log of a try that was refused, and of one that was not: which server answered, and when, tells them apart."
	}
	if w.c.Source == "url" && w.neverRefused() {
		return "It was sent as curl sends it. If a browser was refused, hand in what that sent: copied as cURL (--curl), or recorded (--har)."
	}
	return "Hand in the answer of the refusal as it was, or the line of the server's log: the same request passes now."
}

// neverRefused says that no refusal is known: none was handed in, and none came.
func (w *weighing) neverRefused() bool {
	x := w.c.Exchange()
	return w.status == 0 && x != nil && (x.Answer == nil || x.Answer.Status == 0 && x.Answer.Err == "") && w.c.Line == nil
}

// blame makes the refuser agree with the cause that was found.
func (w *weighing) blame(v *Verdict, top *hypothesis) {
	best := 0
	for _, list := range [][]Clue{top.clues, borrowed(top)} {
		for _, c := range list {
			if c.Refuser != "" && !c.Against && !takesOff(c) && strength[c.Source] > best && (!slices.Contains(w.passedOn, c.Refuser) || c.Refuser == w.who.Product || top.cause.ID == "cdn-cached-refusal") && c.ID != SilentLog {
				if best == 0 || strength[c.Source] >= strength[FromFiles] {
					v.Refuser.Product, v.Refuser.Hop = c.Refuser, c.Hop
				}
				best = strength[c.Source]
			}
			if d := c.Names["decider"]; d != "" {
				v.Refuser.Decider = excerpt(d)
			}
		}
	}
}

func borrowed(h *hypothesis) (clues []Clue) {
	for _, b := range h.borrows {
		clues = append(clues, b.clues...)
	}
	return clues
}

// evidence orders the clues: for the cause by strength of source, then who refused, then what speaks
// against it.
func (w *weighing) evidence(top *hypothesis) []Clue {
	order := func(c Clue) int {
		switch {
		case top == nil:
			return 0
		case c.Cause == top.cause.ID && !c.Against:
			return 0
		case slices.ContainsFunc(top.borrows, func(b *hypothesis) bool { return b.cause.ID == c.Cause }) && !c.Against:
			return 1
		case c.Cause == "":
			return 2
		}
		return 3
	}
	list := slices.DeleteFunc(slices.Clone(w.clues), func(c Clue) bool {
		// What experiments say of causes that nothing else speaks for is noise.
		h := w.by[c.Cause]
		if c.Cause == "" || h != nil && h == top || h != nil && top != nil && slices.Contains(top.borrows, h) {
			return false
		}
		return c.Source == FromExperiment && c.ID != "repeat" && (h == nil || h.share < 0.02) || top != nil && h != nil && c.Weight <= Hint && h.share < 0.05
	})
	if top != nil {
		for _, c := range top.clues {
			if c.Source == FromExperiment && !w.told(c.ID) {
				list = append(list, c)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b Clue) int {
		return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(strength[b.Source], strength[a.Source]), cmp.Compare(b.Weight, a.Weight))
	})
	return list[:min(len(list), 40)]
}

func (w *weighing) alternatives(top *hypothesis) []Alternative {
	var list []Alternative
	for _, h := range w.list {
		if h == top || slices.Contains(top.borrows, h) || h.share < 0.02 || len(list) == 5 {
			continue
		}
		if h.score < 0 && (len(h.against) > 0 || h.failed > 0) {
			continue // less likely than before anything was tried
		}
		list = append(list, w.alternative(h, top))
	}
	return list
}

func (w *weighing) alternative(h, top *hypothesis) Alternative {
	a := Alternative{Cause: h.cause.ID, Title: h.cause.Title, Confidence: math.Round(100*min(h.share, ceiling["C"])) / 100}
	if top == nil {
		a.Separate = "It would show in this: " + strings.TrimSuffix(h.cause.Evidence, ".") + "."
		return a
	}
	done := map[string]bool{}
	skipped := map[string]string{}
	sent := false // then what is neither done nor skipped does not apply to this request, or tells too little
	for _, e := range w.experiments {
		if e.Skipped == "" {
			done[e.Operator], sent = true, true
		} else {
			skipped[e.Operator] = e.Skipped
		}
	}
	for _, list := range [][]Expect{top.cause.Expect, h.cause.Expect} {
		for _, e := range list {
			here, there := w.know.expected(top.cause.ID, e.Operator), w.know.expected(h.cause.ID, e.Operator)
			if done[e.Operator] || here == there || sent && skipped[e.Operator] == "" {
				continue
			}
			a.Separate = fmt.Sprintf("The experiment %s tells them apart: the request %s if it is %s, and %s if it is %s.",
				e.Operator+supplied[e.Operator], shows(here), top.cause.Title, shows(there), h.cause.Title)
			if s := skipped[e.Operator]; s != "" {
				a.Separate += " It was not sent: " + strings.TrimSuffix(s, ".") + "."
			}
			return a
		}
	}
	a.Separate = "This tells them apart: " + strings.TrimSuffix(h.cause.Evidence, ".") + "."
	return a
}

// supplied are experiments with something that only the user has, and the flag that takes it.
var supplied = map[string]string{"auth-swap": " (another identity, with --swap)", "from-elsewhere": " (another own address, with --from)", "direct-origin": " (the next hop itself, with --origin)"}

func shows(s string) string {
	switch s {
	case "passes":
		return "passes"
	case "other":
		return "is answered otherwise"
	}
	return "stays refused"
}

// readable are the servers whose configuration and logs are read with --on-server.
var readable = []string{"nginx", "apache-httpd", "haproxy", "lighttpd", "caddy", "iis", "php-fpm"}

// asks names the log, the person or the place that knows.
func (w *weighing) asks() string {
	if w.whoClue != nil && w.whoClue.Source == FromAnswer && w.whoClue.Cause == "" {
		if look := fingerprintLook()[w.whoClue.ID]; look != "" {
			if slices.Contains(readable, w.who.Product) && !slices.ContainsFunc(w.clues, func(c Clue) bool { return strength[c.Source] >= strength[FromFiles] && c.Source != FromExperiment }) {
				look += " Run on the server, --on-server reads configuration, log and permissions."
			}
			return look
		}
	}
	when := ""
	if x := w.c.Exchange(); x != nil && !x.At.IsZero() {
		when = " at " + x.At.UTC().Format("2006-01-02 15:04:05") + " UTC"
	} else if w.c.Line != nil && !w.c.Line.At.IsZero() {
		when = " at " + w.c.Line.At.UTC().Format("2006-01-02 15:04:05") + " UTC"
	}
	switch w.who.Product {
	case "":
		for _, c := range w.clues {
			if c.Against && c.Cause == "" && c.Refuser != "" && c.Names["behind"] != "" {
				return fmt.Sprintf("%s only handed the answer on. The log of %s behind it%s knows: hand in its line, or run this on that server with --on-server.", upper(ProductName(c.Refuser)), excerpt(c.Names["behind"]), when)
			}
		}
		return "The first server of the chain knows: hand in a line of its access log" + when + ", or run this on the server with --on-server."
	case "nginx":
		return "The error log of nginx" + when + " names deny rules, permissions and missing indexes; no line there means return, if, valid_referers or auth_request. With --on-server this is read."
	case "apache-httpd":
		return "The error log of Apache httpd" + when + " names the cause by its AH number; no line there means RewriteRule [F]. With --on-server this is read."
	case "whygate":
		return "Whygate recorded the explanation: whygate why, with the value of Whygate-Call."
	}
	next := fmt.Sprintf("The log of %s%s knows, or the person who runs it.", ProductName(w.who.Product), when)
	if w.whoClue != nil && w.whoClue.Source == FromAnswer {
		if look := fingerprintLook()[w.whoClue.ID]; look != "" {
			next += " " + look
		}
	}
	return next
}

// named are the names that a fix quotes: those of the better source win.
func (w *weighing) named(top *hypothesis) map[string]string {
	all := map[string]string{}
	if x := w.c.Exchange(); x != nil && x.Request != nil {
		all["method"] = x.Request.Method
		all["host"] = x.Request.Host()
		bare, _, _ := strings.Cut(x.Request.URL, "?")
		all["url"] = bare
		if u, err := x.Request.Parsed(); err == nil {
			all["uri"] = u.EscapedPath()
		}
	} else if l := w.c.Line; l != nil {
		all["method"], all["host"] = l.Method, l.Host
		all["uri"], _, _ = strings.Cut(l.Path, "?")
	}
	for _, clues := range [][]Clue{borrowed(top), slices.Clone(top.clues)} { // its own names win
		slices.SortStableFunc(clues, func(a, b Clue) int {
			return cmp.Or(cmp.Compare(strength[a.Source], strength[b.Source]), cmp.Compare(a.Weight, b.Weight))
		})
		for _, c := range clues {
			for name, value := range c.Names {
				if value != "" {
					all[name] = value
				}
			}
		}
	}
	return all
}

func (w *weighing) fix(top *hypothesis, named map[string]string) Fix {
	f := Fix{Owner: top.cause.Fix.Owner, Risk: fill(top.cause.Fix.Risk, named)}
	best := 0.0
	for _, c := range append(slices.Clone(top.clues), borrowed(top)...) {
		// Exact steps of a finder that looked at the server count more than a page does.
		if v := float64(strength[c.Source])*10 + c.Weight; len(c.Fix) > 0 && v > best && (c.Cause == top.cause.ID || strength[c.Source] >= strength[FromFiles]) {
			best = v
			f.Steps = slices.Clone(c.Fix)
		}
	}
	if f.Steps == nil {
		f.Steps = fillAll(top.cause.Fix.Steps, named)
	}
	return f
}

// place is where the best clue for a cause stands.
func place(top *hypothesis) string {
	best, at := 0, ""
	rank := map[Source]int{FromConfig: 9, FromFiles: 8} // what is to be changed, rather than the log that tells of it
	for _, c := range append(slices.Clone(top.clues), borrowed(top)...) {
		r := max(rank[c.Source], strength[c.Source])
		if c.At.File != "" && !c.Against && r > best && (c.Weight >= Fair || c.Source != FromConfig) {
			best, at = r, excerpt(c.At.File)
			if c.At.Line > 0 {
				at = fmt.Sprintf("%s:%d", at, c.At.Line)
			}
		}
	}
	return at
}

// sentence says the verdict the way a good engineer would note it.
func (w *weighing) sentence(v *Verdict, at string) string {
	who := "A server"
	if v.Refuser.Product != "" {
		who = ProductName(v.Refuser.Product)
	}
	what := "the request"
	if x := w.c.Exchange(); x != nil && x.Request != nil {
		if u, err := x.Request.Parsed(); err == nil && len(u.EscapedPath()) < 200 {
			what = excerpt(x.Request.Method + " " + cmp.Or(u.EscapedPath(), "/"))
		}
	} else if l := w.c.Line; l != nil && l.Method != "" {
		path, _, _ := strings.Cut(l.Path, "?")
		what = excerpt(l.Method + " " + path)
	}
	status := ""
	if w.status != 0 {
		status = fmt.Sprintf(" with %d", w.status)
	}
	if at != "" {
		at = ", at " + at
	}
	switch {
	case v.Cause == notReproduced && w.neverRefused():
		if i := slices.IndexFunc(w.experiments, func(e Experiment) bool { return e.Operator == "repeat" && e.Status != 0 }); i >= 0 {
			return fmt.Sprintf("Nothing refuses %s: the answer has status %d.", what, w.experiments[i].Status)
		}
		return fmt.Sprintf("Nothing refuses %s.", what)
	case v.Cause == notReproduced && w.atTimes() != "":
		return fmt.Sprintf("The same request, %s, was refused%s %s: it depends on something else than the request.", what, status, w.atTimes())
	case v.Cause == notReproduced:
		return fmt.Sprintf("The refusal of %s%s does not come back: the same request passes now.", what, status)
	case v.Cause == baselineDiffers:
		return fmt.Sprintf("The replay of %s meets another refusal than the recorded one%s, so its cause would be another.", what, status)
	case v.Cause == inputIncomplete:
		return fmt.Sprintf("What was handed in lacks what matters to say why %s was refused%s.", what, status)
	case v.Outcome == Proved:
		if v.Refuser.Decider != "" {
			return fmt.Sprintf("%s refused %s%s, as %s decided: %s%s.", upper(who), what, status, v.Refuser.Decider, v.Title, at)
		}
		return fmt.Sprintf("%s refused %s%s: %s%s.", upper(who), what, status, v.Title, at)
	case v.Outcome == Likely && v.Grade == "C":
		return fmt.Sprintf("%s refused %s%s, most likely for this: %s%s.", upper(who), what, status, v.Title, at)
	case v.Outcome == Likely:
		return fmt.Sprintf("%s refused %s%s, perhaps for this: %s%s.", upper(who), what, status, v.Title, at)
	case v.Refuser.Product != "":
		return fmt.Sprintf("%s refused %s%s, and nothing seen so far says why.", upper(who), what, status)
	}
	if v.Outcome == Unsafe {
		return fmt.Sprintf("Who refused %s%s, and why, is not known: it may have an effect, so it was not sent.", what, status)
	}
	return fmt.Sprintf("Who refused %s%s, and why, is not known.", what, status)
}

func upper(s string) string {
	if strings.HasPrefix(s, "a ") || strings.HasPrefix(s, "an ") || strings.HasPrefix(s, "the ") {
		return strings.ToUpper(s[:1]) + s[1:]
	}
	return s
}

var blank = regexp.MustCompile(`(.?)\{([a-z_]+)(?:\|([^{}]*))?\}`)

// bareText are texts that a shell and a reader take as they are.
var bareText = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,~-]+$`)

// fill puts names into a step. {name|otherwise} becomes the name, or the other text; {name|} is a
// remark in brackets, or nothing. Names come from strangers: what is not plain stands in quotes, so that a
// command with it does what it says.
func fill(step string, names map[string]string) string {
	return blank.ReplaceAllStringFunc(step, func(m string) string {
		p := blank.FindStringSubmatch(m)
		value := excerpt(names[p[2]])
		remark := p[3] == ""
		switch {
		case value == "" && remark && p[1] == " ":
			return ""
		case value == "":
			return p[1] + p[3]
		case remark && p[1] != " ":
			return p[1] + " (" + value + ")"
		}
		if !bareText.MatchString(value) && !strings.HasPrefix(value, opening) {
			value = "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
		}
		return p[1] + value
	})
}

func fillAll(steps []string, names map[string]string) []string {
	out := make([]string, len(steps))
	for i, s := range steps {
		out[i] = fill(s, names)
	}
	return out
}
