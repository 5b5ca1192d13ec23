package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/whygate/whygate/admin"
	"github.com/whygate/whygate/calllog"
)

// defaultData is where a node keeps its data unless told otherwise.
func defaultData() string {
	if d := os.Getenv("WHYGATE_DATA"); d != "" {
		return d
	}
	if d := os.Getenv("XDG_STATE_HOME"); d != "" {
		return filepath.Join(d, "whygate")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "whygate")
	}
	return "whygate-data"
}

const (
	nodeFile    = "node.json"
	journalName = "calls"
)

// nodeInfo is what a node leaves in its data directory, so that commands find it.
type nodeInfo struct {
	Node      string    `json:"node"`
	PID       int       `json:"pid"`
	Admin     string    `json:"admin"` // address
	Listeners []string  `json:"listeners"`
	Started   time.Time `json:"started"`
}

func readNode(dir string) (n nodeInfo, err error) {
	b, err := os.ReadFile(filepath.Join(dir, nodeFile))
	if err == nil {
		err = json.Unmarshal(b, &n)
	}
	return n, err
}

// client talks to the admin API of a node.
type client struct {
	base, token string
	http        *http.Client
}

// errNoNode says that no node answers. Records can still be read from its directory.
var errNoNode = errors.New("no node answers")

func (a *app) client() (*client, error) {
	address := a.admin
	if address == "" {
		n, err := readNode(a.data)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s has never been the data directory of a node; start one with whygate serve, or name the directory with --data", errNoNode, a.data)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: reading %s: %v", errNoNode, filepath.Join(a.data, nodeFile), err)
		}
		address = n.Admin
	}
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	token := os.Getenv("WHYGATE_ADMIN_TOKEN")
	if token == "" {
		b, err := os.ReadFile(filepath.Join(a.data, admin.TokenFile))
		if err != nil && a.admin == "" {
			return nil, fmt.Errorf("reading the admin token: %w", err)
		}
		token = string(bytes.TrimSpace(b))
	}
	return &client{strings.TrimSuffix(address, "/"), token, &http.Client{Timeout: 30 * time.Second}}, nil
}

func (c *client) do(ctx context.Context, method, path string, query url.Values, body, into any) error {
	res, err := c.send(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return json.NewDecoder(res.Body).Decode(into)
}

// send makes a request and turns problems into errors. The caller closes the body.
func (c *client) send(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
	}
	u := c.base + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w at %s: %v; is it running? start one with whygate serve, or name it with --admin or --data", errNoNode, c.base, errors.Unwrap(err))
	}
	if res.StatusCode < 400 || res.StatusCode == http.StatusUnprocessableEntity {
		return res, nil
	}
	defer res.Body.Close()
	var p admin.Problem
	if json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&p) != nil || p.Detail == "" {
		return nil, fmt.Errorf("the node answered %s", res.Status)
	}
	text := p.Detail
	if p.Fix != "" {
		text += "; " + p.Fix
	}
	return nil, &nodeError{p.Status, text}
}

// nodeError is what a node had to say against a request.
type nodeError struct {
	status int
	text   string
}

func (e *nodeError) Error() string { return e.text }

// records opens the journal of a data directory, for when no node answers.
func (a *app) records() (*calllog.Reader, error) {
	return calllog.OpenReader(filepath.Join(a.data, journalName))
}
