-- One order for each call, built once.
wrk.method = "POST"
wrk.body = [==[{{.Body}}]==]
wrk.headers["Content-Type"] = "application/json"
