package gateway

import (
	"net/http"
	"sync/atomic"
	"time"
)

// dateLine is the text of one second.
type dateLine struct {
	second int64
	text   string
}

var dateNow atomic.Pointer[dateLine]

// httpDate is the value of a Date field, written once per second.
func httpDate(t time.Time) string {
	s := t.Unix()
	if d := dateNow.Load(); d != nil && d.second == s {
		return d.text
	}
	d := &dateLine{s, t.UTC().Format(http.TimeFormat)}
	dateNow.Store(d)
	return d.text
}
