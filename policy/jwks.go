package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// How long calls wait, and how fast an issuer that is away is asked again.
const (
	keysWait  = 2 * time.Second
	keysTime  = 5 * time.Second // of one fetch
	keysRetry = 2 * time.Second // at first; doubled up to keysRetryMost
)

const keysRetryMost = time.Minute

// keySource has the keys of an issuer: fetched in the background and kept while the issuer is away, or read once
// from the document. It outlives revisions (Env.Keep), and with it the tokens that were verified with its keys.
//
// Calls read the state and go on. They wait, for at most keysWait, in two cases: before the first fetch has
// ended, and when a token names a key that is not there and no fetch has ended within the last `again`.
type keySource struct {
	jwks, issuer          string // one of them is set
	refresh, stale, again time.Duration
	client                *http.Client

	state    atomic.Pointer[keyState]
	ask      chan struct{} // somebody wants keys that are not there
	ctx      context.Context
	cancel   context.CancelFunc
	started  atomic.Bool
	done     chan struct{}
	verified slots[*verified]
}

// keyState is how the keys stand. Each fetch makes a new one.
type keyState struct {
	set     *keySet // nil before the first success
	fetched time.Time
	tried   time.Time // the last fetch; zero before the first
	failed  string    // why it failed, "" if it did not
	since   time.Time // of the failure
	gone    bool      // the keys are older than they may be
	next    chan struct{}
}

// verified is a token whose signature is right. What it claims has yet to be judged.
type verified struct {
	set    *keySet
	alg    string
	kid    string
	typ    string
	claims map[string]any
}

func newKeySource(p *JWT) *keySource {
	s := &keySource{jwks: p.JWKS, refresh: time.Duration(p.Refresh), stale: time.Duration(p.StaleFor), again: time.Duration(p.Refetch),
		ask: make(chan struct{}, 1), done: make(chan struct{})}
	if s.jwks == "" {
		s.issuer = p.Issuer
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.client = fetchClient(keysTime)
	s.state.Store(&keyState{next: make(chan struct{})})
	s.verified.init()
	return s
}

// fetchClient asks other servers. Connections are not kept: they would be idle for minutes.
func fetchClient(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout:   timeout,
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10, TLSHandshakeTimeout: timeout},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > 3 || via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
				return errors.New("it redirects too often, or away from https")
			}
			return nil
		},
	}
}

// fixedKeys has keys that never change.
func fixedKeys(set *keySet) *keySource {
	s := &keySource{}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.state.Store(&keyState{set: set})
	s.verified.init()
	return s
}

// Start begins to fetch.
func (s *keySource) Start() {
	s.started.Store(true)
	go s.run()
}

// Close ends it.
func (s *keySource) Close() {
	s.cancel()
	if s.started.Load() {
		<-s.done
	}
}

func (s *keySource) put(st *keyState) {
	st.next = make(chan struct{})
	close(s.state.Swap(st).next)
}

func (s *keySource) run() {
	defer close(s.done)
	retry := keysRetry
	for {
		s.fetch()
		st := s.state.Load()
		pause := s.refresh
		if st.failed != "" {
			pause, retry = retry, min(2*retry, keysRetryMost, s.refresh)
		} else {
			retry = keysRetry
		}
		if !s.pause(pause) {
			return
		}
	}
}

// pause waits for the next fetch: until its time, or until somebody asks who may. It notices when the keys get
// too old meanwhile.
func (s *keySource) pause(d time.Duration) bool {
	next := time.NewTimer(d)
	defer next.Stop()
	var old <-chan time.Time
	if st := s.state.Load(); st.set != nil && st.failed != "" && !st.gone {
		t := time.NewTimer(time.Until(st.fetched.Add(s.stale)))
		defer t.Stop()
		old = t.C
	}
	for {
		select {
		case <-s.ctx.Done():
			return false
		case <-next.C:
			return true
		case <-old:
			st := *s.state.Load()
			st.gone = true
			s.put(&st)
		case <-s.ask:
			if time.Since(s.state.Load().tried) >= s.again {
				return true
			}
		}
	}
}

// fetch gets the keys and says how that went.
func (s *keySource) fetch() {
	set, err := s.load()
	now := time.Now()
	st := *s.state.Load()
	st.tried = now
	if err != nil {
		if st.failed == "" {
			st.since = now
		}
		st.failed = err.Error()
		st.gone = st.set != nil && now.Sub(st.fetched) >= s.stale
	} else {
		if st.set == nil || st.set.sum != set.sum { // else tokens that were verified stay so
			st.set = set
		}
		st.fetched, st.failed, st.gone, st.since = now, "", false, time.Time{}
	}
	s.put(&st)
}

func (s *keySource) load() (*keySet, error) {
	at := s.jwks
	if at == "" {
		// OpenID Connect Discovery 1.0 §4: a slash at the end of the issuer is taken off.
		doc, err := s.read(strings.TrimSuffix(s.issuer, "/") + "/.well-known/openid-configuration")
		if err != nil {
			return nil, err
		}
		var meta struct {
			Issuer string `json:"issuer"`
			JWKS   string `json:"jwks_uri"`
		}
		if err := json.Unmarshal(doc, &meta); err != nil {
			return nil, errors.New("the discovery document is no JSON")
		}
		if meta.Issuer != s.issuer {
			return nil, fmt.Errorf("the discovery document is of issuer %q, wanted %q", clipped(meta.Issuer, 200), s.issuer)
		}
		if u, err := url.Parse(meta.JWKS); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return nil, fmt.Errorf("jwks_uri %q of the discovery document is no URL", clipped(meta.JWKS, 200))
		} else if u.Scheme == "http" && strings.HasPrefix(s.issuer, "https:") {
			return nil, fmt.Errorf("jwks_uri %q of the discovery document leaves https", clipped(meta.JWKS, 200))
		}
		at = meta.JWKS
	}
	doc, err := s.read(at)
	if err != nil {
		return nil, err
	}
	set, err := parseKeySet(doc, false)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return set, nil
}

func (s *keySource) read(at string) ([]byte, error) {
	req, err := http.NewRequestWithContext(s.ctx, "GET", at, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	res, err := s.client.Do(req)
	if err != nil {
		return nil, plainURLError(at, err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		return nil, fmt.Errorf("%s answers %s", at, clipped(res.Status, 60))
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxKeySet+1))
	switch {
	case err != nil:
		return nil, plainURLError(at, err)
	case len(b) > maxKeySet:
		return nil, fmt.Errorf("%s answers more than %d bytes", at, maxKeySet)
	}
	return b, nil
}

// plainURLError says what went wrong without repeating method and URL.
func plainURLError(at string, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		if u.Timeout() {
			return fmt.Errorf("%s does not answer in time", at)
		}
		err = u.Err
	}
	return fmt.Errorf("%s: %s", at, clipped(err.Error(), 200))
}

// first waits for the first fetch to end.
func (s *keySource) first() *keyState {
	st := s.state.Load()
	if st.set != nil || !st.tried.IsZero() {
		return st
	}
	return s.wait(st)
}

// fresher asks for newer keys, if the last fetch is long enough ago, and waits for them.
func (s *keySource) fresher(st *keyState) *keyState {
	if st.next == nil || time.Since(st.tried) < s.again {
		return st
	}
	select {
	case s.ask <- struct{}{}:
	default: // somebody has asked already
	}
	return s.wait(st)
}

func (s *keySource) wait(st *keyState) *keyState {
	t := time.NewTimer(keysWait)
	defer t.Stop()
	select {
	case <-st.next:
	case <-t.C:
	case <-s.ctx.Done():
	}
	return s.state.Load()
}
