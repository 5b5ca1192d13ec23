package pinpoint

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// logPattern is one entry of logs.yaml: a line by which a server says that it refused, and why.
type logPattern struct {
	ID      string
	Product string
	Refuser string // where another product wrote the line: PHP-FPM through nginx
	Cause   string
	Re      string
	Refine  []refinement
	Also    []string
	Weight  string
	Against bool
	Passes  bool
	Note    string

	pattern *pattern
	also    []*pattern
}

type logKnowledge struct {
	Patterns []*logPattern
	IIS      map[string]string // "403.14" → cause
	Envoy    map[string]string // prefix of the details → cause
	Flags    map[string]string // response flag of Envoy → cause

	products []string
}

var logs = sync.OnceValue(func() *logKnowledge {
	k := &logKnowledge{}
	read("logs", k)
	for _, p := range k.Patterns {
		p.pattern = newPattern(p.Re)
		for i := range p.Refine {
			p.Refine[i].pattern = newPattern(p.Refine[i].Re)
		}
		for _, text := range p.Also {
			p.also = append(p.also, newPattern(text))
		}
		if _, ok := weights[p.Weight]; !ok {
			panic(fmt.Sprintf("BUG: log pattern %s has weight %q", p.ID, p.Weight))
		}
		if !slices.Contains(k.products, p.Product) {
			k.products = append(k.products, p.Product)
		}
	}
	return k
})

var weights = map[string]float64{"": Certain, "certain": Certain, "strong": Strong, "fair": Fair, "hint": Hint}

// ApplicationLog is the id of a clue that says: the log of a program that answers by itself has the request with the status
// that the client saw.
const ApplicationLog = "application-log"

// SilentLog is the id of a clue that says: the error log of Refuser was read for the time of the request and has
// no line of it. It has Source FromLog and no Cause; Conclude holds it against Cause.Silent.
const SilentLog = "log-silent"

// searchedLine is how much of a log line is read.
const searchedLine = 16 << 10

// MatchLog holds one line of a log against the patterns of a product, or of all products for "" and for a
// product that has none of its own. Of each product the first pattern that matches takes the line. Lines of
// ModSecurity, Coraza and PHP are known in the logs of web servers as well. Lines that warn only
// (DetectionOnly, or a rule that adds to a score) come as hints, never as proof of a block.
//
// It serves error logs and the lines of access logs that speak for themselves (HAProxy, Envoy, IIS);
// a line that has been taken apart is read by Attribute.
func MatchLog(product, line string) []Clue {
	k := logs()
	line = line[:min(len(line), searchedLine)]
	text := []byte(strings.TrimRight(line, "\r\n"))
	in := newSearched(text)
	products := k.products
	switch product {
	case "apache", "apache2", "httpd":
		product = "apache-httpd"
	}
	if slices.Contains(products, product) {
		products = []string{product}
		if product == "nginx" || product == "apache-httpd" || product == "iis" || product == "caddy" || product == "modsecurity" || product == "coraza" {
			for _, p := range []string{"modsecurity", "coraza", "php-fpm"} {
				if p != product {
					products = append(products, p)
				}
			}
		}
	}
	var clues []Clue
	for _, name := range products {
		for _, p := range k.Patterns {
			if p.Product != name {
				continue
			}
			if c, ok := p.match(k, text, in); ok {
				clues = append(clues, c)
				break
			}
		}
	}
	return clues
}

func (p *logPattern) match(k *logKnowledge, text []byte, in searched) (Clue, bool) {
	at := p.pattern.find(text, in)
	if at == nil {
		return Clue{}, false
	}
	matched := text[at[0]:at[1]]
	c := Clue{Source: FromLog, ID: p.ID, Refuser: p.Product, Against: p.Against, Weight: weights[p.Weight], Quote: excerpt(string(matched))}
	if p.Refuser != "" {
		c.Refuser = p.Refuser
	}
	names := map[string]string{}
	collect(names, p.pattern.compile(), text, at)
	for _, a := range p.also {
		if more := a.find(text, in); more != nil {
			collect(names, a.compile(), text, more)
		}
	}
	if file, line := names["file"], names["line"]; file != "" && line != "" {
		c.At.File = file
		c.At.Line, _ = strconv.Atoi(line)
		delete(names, "file")
		delete(names, "line")
	}
	// Rules that only add up a score are not the rules to except.
	if rule := names["rule"]; rule == "949110" || rule == "949111" || rule == "959100" || strings.HasPrefix(rule, "980") {
		names["blocking_rule"] = rule
		delete(names, "rule")
	}
	cause := refine(p.Cause, p.Refine, matched)
	if p.ID == "iis-w3c" {
		if known, ok := k.IIS[names["status"]+"."+names["substatus"]]; ok {
			cause = known
		}
	}
	if cause != refuserOnly {
		c.Cause = cause
	}
	if p.Passes {
		c.Against = true
	}
	c.Says = p.says(c)
	if len(names) > 0 {
		c.Names = names
	}
	return c, true
}

func collect(names map[string]string, re *regexp.Regexp, text []byte, at []int) {
	for i, name := range re.SubexpNames() {
		if name == "" || at[2*i] < 0 || at[2*i] == at[2*i+1] {
			continue
		}
		// user and user2 are one name in two alternatives of a pattern.
		name = strings.TrimRight(name, "0123456789")
		v := string(text[at[2*i]:at[2*i+1]])
		if name == "uri" { // a fix quotes the path; a query may hold what nobody else should read
			v, _, _ = strings.Cut(v, "?")
		}
		if v = excerpt(v); v != "" && names[name] == "" {
			names[name] = v
		}
	}
}

func (p *logPattern) says(c Clue) string {
	who := ProductName(c.Refuser)
	title := ""
	if known, ok := CauseByID(c.Cause); ok {
		title = known.Title
	}
	switch {
	case p.Passes:
		return fmt.Sprintf("%s logged that it handed on the answer of the server behind it.", who)
	case c.Against:
		return fmt.Sprintf("%s logged a warning where it would have blocked: it only watches (DetectionOnly).", who)
	case title == "":
		return fmt.Sprintf("%s logged a refusal of its own without the cause.", who)
	case c.Weight <= Hint:
		return fmt.Sprintf("%s logged a warning that points to %s; a warning alone blocks nothing.", who, title)
	}
	return fmt.Sprintf("The log of %s names it: %s.", who, title)
}
